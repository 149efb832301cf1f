#include "core/checkpoint/checkpoint.h"

#include <algorithm>
#include <numeric>

#include "core/base/json.h"
#include "core/checkpoint/async_writer.h"
#include "core/checkpoint/checkpoint_reader.h"
#include "core/checkpoint/file.h"
#include "tests/core/checkpoint/files.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr int64_t kSize = 1000;

struct World {
  std::vector<double> weights = std::vector<double>(kSize);  // [10, 100], f64
  std::vector<float> moments = std::vector<float>(kSize);    // [1000], f32
  std::vector<int64_t> count = {41};                         // [], on rank 0 only

  explicit World(double seed) {
    std::iota(weights.begin(), weights.end(), seed);
    std::iota(moments.begin(), moments.end(), static_cast<float>(seed) + 0.5f);
  }
};

// Elements [begin, end) of rank's share, with borders that fit no row.
std::pair<int64_t, int64_t> Share(int64_t size, int rank, int world_size) {
  return {size * rank / world_size, size * (rank + 1) / world_size};
}

std::string Save(const std::string& out, int64_t step, int world_size, const World& world,
                 int keep_last = 0) {
  const std::string part = BeginCheckpoint(out, step);
  REQUIRE(part == PartDirectory(out, step));
  std::vector<std::string> entries;
  for (int rank = 0; rank < world_size; ++rank) {
    const auto [begin, end] = Share(kSize, rank, world_size);
    std::vector<Region> regions = {
        {"w", DType::kF64, {10, 100}, {{begin, end - begin}}, world.weights.data() + begin},
        {"m", DType::kF32, {kSize}, {{begin, end - begin}}, world.moments.data() + begin}};
    if (rank == 0) regions.push_back({"n", DType::kI64, {}, {{0, 1}}, world.count.data()});
    // Later ranks give their tensors in another order.
    if (rank > 0) std::reverse(regions.begin(), regions.end());
    entries.push_back(WriteRankFile(part, rank, regions));
  }
  return CommitCheckpoint(part, entries, R"({"step":7,"cursor":[1,2.5,null],"digest":"ab"})",
                          keep_last);
}

void CheckHolds(const CheckpointReader& reader, const World& world, int world_size) {
  std::vector<double> weights(kSize);
  std::vector<double> moments(kSize);
  for (int rank = 0; rank < world_size; ++rank) {
    const auto [begin, end] = Share(kSize, rank, world_size);
    reader.Read("w", begin, end, DType::kF64, weights.data() + begin);
    reader.Read("m", begin, end, DType::kF64, moments.data() + begin);
  }
  int64_t count = 0;
  reader.Read("n", 0, 1, DType::kI64, &count);
  CHECK(weights == world.weights);
  CHECK(moments == std::vector<double>(world.moments.begin(), world.moments.end()));
  CHECK(count == 41);
}

std::vector<std::string> Checkpoints(const TemporaryDirectory& run) {
  return ListDirectory(run / "checkpoints");
}

TEST_CASE("What any number of ranks wrote any other number reads") {
  TemporaryDirectory run;
  for (int writers : {1, 2, 3, 7}) {
    const World world(writers);
    const std::string path = Save(run.path(), 100, writers, world);
    CHECK(path == run / "checkpoints/step-00000100");
    for (Verify verify : {Verify::kSizes, Verify::kHashes}) {
      const CheckpointReader reader = CheckpointReader::Open(path, verify);
      CHECK(reader.step() == 100);
      CHECK(reader.world_size() == writers);
      CHECK(reader.state() == R"({"step":7,"cursor":[1,2.5,null],"digest":"ab"})");
      CHECK(reader.tensors().size() == 3);
      CHECK(reader.Find("w").shape == Shape{10, 100});
      CHECK(reader.Find("m").dtype == DType::kF32);
      for (int readers : {1, 2, 3, 8}) CheckHolds(reader, world, readers);
    }
  }
  const CheckpointReader reader = CheckpointReader::Open(FindLatest(run.path()));
  CHECK(Contains(MessageOf([&] { reader.Find("x"); }), "holds no tensor x"));
  float out[1];
  CHECK(Contains(MessageOf([&] { reader.Read("n", 0, 1, DType::kF32, out); }), "stored as i64"));
  CHECK_THROWS_AS(reader.Read("w", 5, kSize + 1, DType::kF32, out), Error);
  reader.Read("w", kSize, kSize, DType::kF32, out);
}

TEST_CASE("Ranks without elements, tensors without elements") {
  TemporaryDirectory run;
  const std::string part = BeginCheckpoint(run.path(), 0);
  const std::vector<float> x = {1, 2};
  const std::vector<std::string> entries = {
      WriteRankFile(part, 0,
                    {{"x", DType::kF32, {2}, {{0, 2}}, x.data()},
                     {"empty", DType::kF32, {0, 3}, {{0, 0}}, nullptr}}),
      WriteRankFile(part, 1, {{"x", DType::kF32, {2}, {}, nullptr}}), WriteRankFile(part, 2, {})};
  const CheckpointReader reader =
      CheckpointReader::Open(CommitCheckpoint(part, entries, "{}", 1), Verify::kHashes);
  float got[2] = {};
  reader.Read("x", 0, 2, DType::kF32, got);
  CHECK(got[1] == 2.0f);
  reader.Read("empty", 0, 0, DType::kF32, nullptr);
}

TEST_CASE("A save that misses or repeats elements is not committed") {
  TemporaryDirectory run;
  const std::vector<float> x(10);
  const auto commit = [&](int64_t begin, int64_t end, Shape shape) {
    const std::string part = BeginCheckpoint(run.path(), 5);
    const std::vector<std::string> entries = {
        WriteRankFile(part, 0, {{"x", DType::kF32, {10}, {{0, 5}}, x.data()}}),
        WriteRankFile(part, 1, {{"x", DType::kF32, shape, {{begin, end - begin}}, x.data()}})};
    return MessageOf([&] { CommitCheckpoint(part, entries, "{}", 1); });
  };
  CHECK(Contains(commit(6, 10, {10}), "tensor x: elements [5, 6) are in no file"));
  CHECK(Contains(commit(4, 10, {10}), "tensor x: elements [4, 5) are in two places"));
  CHECK(Contains(commit(5, 9, {10}), "tensor x: elements [9, 10) are in no file"));
  CHECK(Contains(commit(5, 10, {5, 2}), "tensor x is f32 [5, 2], on an earlier rank f32 [10]"));
  CHECK(Checkpoints(run).empty());
  CHECK(FindLatest(run.path()).empty());
  CHECK(commit(5, 10, {10}) == "no error");
}

TEST_CASE("keep_last keeps those written last") {
  TemporaryDirectory run;
  const World world(1);
  for (int64_t step : {10, 20, 30}) Save(run.path(), step, 2, world, 2);
  CHECK(Checkpoints(run) == std::vector<std::string>{"latest", "step-00000020", "step-00000030"});
  CHECK(std::filesystem::read_symlink(run / "checkpoints/latest") == "step-00000030");
  // Resumed at 20: what follows is newer than 30, which goes when its turn comes.
  Save(run.path(), 25, 2, world, 2);
  CHECK(FindLatest(run.path()) == run / "checkpoints/step-00000025");
  CHECK(Checkpoints(run) == std::vector<std::string>{"latest", "step-00000025", "step-00000030"});
  Save(run.path(), 30, 3, world, 2);
  CHECK(CheckpointReader::Open(run / "checkpoints/step-00000030").world_size() == 3);
  CHECK(Checkpoints(run) == std::vector<std::string>{"latest", "step-00000025", "step-00000030"});
  Save(run.path(), 40, 2, world, 1);
  CHECK(Checkpoints(run) == std::vector<std::string>{"latest", "step-00000040"});
  CHECK(FindLatest(run.path()) == run / "checkpoints/step-00000040");
}

TEST_CASE("Crashed saves are removed and damaged checkpoints passed over") {
  TemporaryDirectory run;
  CHECK(FindLatest(run.path()).empty());
  const World world(3);
  Save(run.path(), 10, 2, world);
  const std::string newest = Save(run.path(), 20, 2, world);
  std::filesystem::create_directories(run / "checkpoints/step-00000030.part");
  WriteBytes(run / "checkpoints/step-00000030.part/rank-00000.bin", "half");
  std::filesystem::create_directories(run / "checkpoints/step-00000050");
  CHECK(FindLatest(run.path()) == newest);

  const std::string data = newest + "/rank-00001.bin", manifest = newest + "/manifest.json";
  const std::string bytes = ReadBytes(data), text = ReadBytes(manifest);
  const auto is_passed_over = [&] { return FindLatest(run.path()) != newest; };
  const auto message = [&] { return MessageOf([&] { CheckpointReader::Open(newest); }); };
  WriteBytes(data, bytes.substr(0, bytes.size() - 1));
  CHECK(is_passed_over());
  CHECK(Contains(message(), "rank-00001.bin: damaged"));
  std::filesystem::remove(data);
  CHECK(is_passed_over());
  CHECK(Contains(message(), "rank-00001.bin: No such file"));
  WriteBytes(data, bytes);
  CHECK_FALSE(is_passed_over());
  for (size_t length = 0; length < text.size() - 1; length += 17) {
    WriteBytes(manifest, text.substr(0, length));
    if (!Contains(message(), "manifest.json: ")) FAIL("cut at " << length << ": " << message());
  }
  int num_accepted = 0;
  for (size_t at = 0; at < text.size() - 1; ++at) {
    std::string flipped = text;
    flipped[at] ^= 1;
    WriteBytes(manifest, flipped);
    num_accepted += message() == "no error";
  }
  CHECK(num_accepted == 0);
  CHECK(FindLatest(run.path()) == run / "checkpoints/step-00000010");

  // A new save cleans up, but leaves the damaged one, which it does not count.
  Save(run.path(), 60, 1, world, 2);
  CHECK(Checkpoints(run) == std::vector<std::string>{"latest", "step-00000010", "step-00000020",
                                                     "step-00000050", "step-00000060"});
}

TEST_CASE("A flipped bit in the data is found when hashes are checked") {
  TemporaryDirectory run;
  const World world(3);
  const std::string path = Save(run.path(), 10, 2, world);
  std::string bytes = ReadBytes(path + "/rank-00001.bin");
  bytes[100] ^= 4;
  WriteBytes(path + "/rank-00001.bin", bytes);
  const CheckpointReader reader = CheckpointReader::Open(path, Verify::kHashes);
  std::vector<double> out(kSize);
  reader.Read("w", 0, kSize / 2, DType::kF64, out.data());  // the other rank's file
  for (int i = 0; i < 2; ++i) {
    CHECK(Contains(MessageOf([&] { reader.Read("w", 0, kSize, DType::kF64, out.data()); }),
                   "rank-00001.bin: damaged: its hash is"));
  }
}

TEST_CASE("A full disk leaves older checkpoints, latest, and no half one") {
  TemporaryDirectory run;
  const World world(3);
  const std::string old = Save(run.path(), 10, 2, world);
  {
    FileSizeLimit full(2000);
    const std::string message = MessageOf([&] { Save(run.path(), 20, 2, world, 1); });
    CHECK(Contains(message, "step-00000020.part/rank-00000.bin: cannot write: File too large"));
  }
  CHECK(Checkpoints(run) == std::vector<std::string>{"latest", "step-00000010"});
  const std::string part = BeginCheckpoint(run.path(), 20);
  const std::vector<std::string> entries = {
      WriteRankFile(part, 0, {{"n", DType::kI64, {}, {{0, 1}}, world.count.data()}})};
  {
    FileSizeLimit full(100);  // too little for the manifest
    CHECK(Contains(MessageOf([&] { CommitCheckpoint(part, entries, "{}", 1); }),
                   "manifest.json: cannot write: File too large"));
  }
  CHECK(Checkpoints(run) == std::vector<std::string>{"latest", "step-00000010"});
  CHECK(std::filesystem::read_symlink(run / "checkpoints/latest") == "step-00000010");
  CHECK(FindLatest(run.path()) == old);
  CheckHolds(CheckpointReader::Open(old, Verify::kHashes), world, 3);
}

TEST_CASE("A rank's file that others do not see stops the commit") {
  TemporaryDirectory run;
  const std::string part = BeginCheckpoint(run.path(), 20);
  const World world(3);
  const std::vector<std::string> entries = {
      WriteRankFile(part, 0, {{"n", DType::kI64, {}, {{0, 1}}, world.count.data()}})};
  WriteBytes(part + "/rank-00000.bin", "");
  CHECK(Contains(MessageOf([&] { CommitCheckpoint(part, entries, "{}", 1); }), "one file system"));
  CHECK(Checkpoints(run).empty());
}

TEST_CASE("The writer in the background hands its error over once") {
  AsyncWriter writer;
  writer.Wait();
  int done = 0;
  writer.Start([&] { done = 1; });
  writer.Start([&] { Fail(ErrorCode::kCheckpoint, "disk full"); });
  CHECK(MessageOf([&] { writer.Wait(); }) == "disk full");
  CHECK(done == 1);
  CHECK_FALSE(writer.IsRunning());
  writer.Wait();
  writer.Start([&] { Fail(ErrorCode::kCheckpoint, "logged by the destructor"); });
}

}  // namespace
}  // namespace omnitrain
