#include "core/train/run_checkpoint.h"

#include <chrono>
#include <functional>

#include "core/base/log.h"
#include "core/checkpoint/checkpoint_reader.h"

namespace omnitrain {
namespace {

const char kMaster[] = "master/", kFirstMoment[] = "exp_avg/", kSecondMoment[] = "exp_avg_sq/",
           kFrozen[] = "frozen/";

using Clock = std::chrono::steady_clock;

Shape ShapeOf(const HfPart& part) {
  return Shape::FromRange(part.shape.data(), static_cast<int>(part.shape.size()));
}

// Where a value was saved: a parameter may have been frozen in one run and trained in the other.
std::string NameOfValue(const CheckpointReader& reader, const char* first, const char* second,
                        const std::string& name) {
  return (reader.Has(first + name) ? first : second) + name;
}

// Reads elements [begin, begin + size of `to`) of a parameter into a tensor of the device.
// `name_of` gives the saved name of a Hugging Face tensor.
void ReadInto(Context& ctx, const CheckpointReader& reader, const std::string& directory,
              const ParamSpec& spec, int64_t begin,
              const std::function<std::string(const std::string&)>& name_of, const Tensor& to) {
  const size_t element_bytes = DTypeBytes(to.dtype);
  std::vector<char> host(static_cast<size_t>(to.num_bytes()));
  for (const StoredPiece& piece : StoredPieces(spec, begin, begin + to.num_elements())) {
    const std::string name = name_of(piece.part->name);
    OT_REQUIRE(reader.Has(name), ErrorCode::kCheckpoint,
               "{}: holds no '{}'; was it made by another model?", directory, name);
    const Shape &saved = reader.Find(name).shape, wanted = ShapeOf(*piece.part);
    OT_REQUIRE(saved == wanted, ErrorCode::kCheckpoint, "{}: '{}' has shape {}, the model wants {}",
               directory, name, saved.ToString(), wanted.ToString());
    reader.Read(name, piece.runs, to.dtype,
                host.data() + static_cast<size_t>(piece.begin - begin) * element_bytes);
  }
  ctx.device().Copy(to.data, host.data(), host.size(), ctx.stream());
  ctx.stream().Synchronize();
}

void ReadKept(Context& ctx, const CheckpointReader& reader, const std::string& directory,
              const ParamStore& params, ParamId id,
              const std::function<std::string(const std::string&)>& name_of) {
  const ParamStore::Kept kept = params.kept(id);
  if (!kept.values) return;
  ReadInto(ctx, reader, directory, params.spec(id), kept.begin, name_of, kept.values);
}

void RestoreFrozen(Context& ctx, const CheckpointReader& reader, const std::string& directory,
                   ParamStore& params) {
  const auto name_of = [&](const std::string& name) {
    return NameOfValue(reader, kFrozen, kMaster, name);
  };
  for (ParamId id = 0; id < params.num_params(); ++id) {
    if (params.is_frozen(id)) ReadKept(ctx, reader, directory, params, id, name_of);
  }
}

}  // namespace

struct RunCheckpoints::Pending {
  int64_t step = 0;
  std::string part_dir;
  std::string state;
  std::vector<std::vector<char>> snapshot;
  std::vector<Region> regions;
  std::string entry, error;
  Clock::time_point started;
  AsyncWriter writer;  // last: its thread uses what stands above
};

RunCheckpoints::RunCheckpoints(Context& ctx, Communicator& world, Options options)
    : ctx_(ctx), world_(world), options_(std::move(options)) {}

RunCheckpoints::~RunCheckpoints() = default;

void RunCheckpoints::Start(int64_t step, const ParamStore& params, const ShardedAdamW& optimizer,
                           const Json& state) {
  if (pending_ != nullptr) Commit();
  auto pending = std::make_unique<Pending>();
  pending->step = step;
  pending->state = state.dump();
  pending->started = Clock::now();
  // Elements of a parameter from `begin` on.
  const auto add = [&](const char* kind, const ParamSpec& spec, int64_t begin, const Tensor& t) {
    pending->snapshot.emplace_back(static_cast<size_t>(t.num_bytes()));
    std::vector<char>& host = pending->snapshot.back();
    ctx_.device().Copy(host.data(), t.data, host.size(), ctx_.stream());
    for (StoredPiece& piece : StoredPieces(spec, begin, begin + t.num_elements())) {
      Region region;
      region.name = kind + piece.part->name;
      region.dtype = t.dtype;
      region.global_shape = ShapeOf(*piece.part);
      region.runs = std::move(piece.runs);
      region.data = host.data() + static_cast<size_t>(piece.begin - begin) * DTypeBytes(t.dtype);
      pending->regions.push_back(std::move(region));
    }
  };
  for (const OwnedRange& range : optimizer.owned()) {
    const ParamSpec& spec = params.spec(range.param);
    add(kMaster, spec, range.begin, range.master);
    add(kFirstMoment, spec, range.begin, range.m);
    add(kSecondMoment, spec, range.begin, range.v);
  }
  for (ParamId id = 0; id < params.num_params(); ++id) {
    const ParamSpec& spec = params.spec(id);
    if (!params.is_frozen(id)) continue;
    const ParamStore::Kept kept = params.kept(id);
    const bool is_mine = params.is_sharded(id) || optimizer.groups().RankIn(spec.sharing) == 0;
    if (is_mine && kept.values) add(kFrozen, spec, kept.begin, kept.values);
  }
  ctx_.stream().Synchronize();

  pending->part_dir = PartDirectory(options_.run_out, step);
  if (world_.rank() == 0) {
    try {
      BeginCheckpoint(options_.run_out, step);
    } catch (const Error& e) {
      pending->error = e.what();  // told to all ranks in Commit
    }
  }
  world_.Barrier();
  Pending* p = pending.get();
  const int rank = world_.rank();
  p->writer.Start([p, rank] {
    if (!p->error.empty()) return;
    try {
      p->entry = WriteRankFile(p->part_dir, rank, p->regions);
    } catch (const Error& e) {
      p->error = e.what();
    }
  });
  pending_ = std::move(pending);
  if (!options_.is_async) Commit();
}

void RunCheckpoints::Commit() {
  Pending& p = *pending_;
  p.writer.Wait();
  const Json mine = {{"entry", p.entry}, {"error", p.error}};
  std::vector<std::string> entries;
  Result result;
  result.step = p.step;
  for (const std::string& text : world_.AllGatherStrings(mine.dump())) {
    const Json one = Json::parse(text);
    entries.push_back(one.at("entry"));
    if (result.error.empty()) result.error = one.at("error");
  }
  if (world_.rank() == 0) {
    try {
      if (!result.error.empty()) {
        AbortCheckpoint(p.part_dir);
      } else {
        result.path = CommitCheckpoint(p.part_dir, entries, p.state, options_.keep_last);
      }
    } catch (const Error& e) {
      result.error = e.what();
    }
  }
  const Json outcome = Json::parse(
      world_.AllGatherStrings(Json{{"path", result.path}, {"error", result.error}}.dump())[0]);
  result.path = outcome.at("path");
  result.error = outcome.at("error");
  result.seconds = std::chrono::duration<double>(Clock::now() - p.started).count();
  ended_.push_back(result);
  pending_.reset();
}

std::vector<RunCheckpoints::Result> RunCheckpoints::Finish(bool block) {
  if (pending_ != nullptr) {
    const int64_t running = pending_->writer.IsRunning() ? 1 : 0;
    if (block || world_.AllReduceScalar(running, ReduceOp::kMax) == 0) Commit();
  }
  return std::exchange(ended_, {});
}

Json RestoreCheckpoint(Context& ctx, const std::string& directory, ParamStore& params,
                       ShardedAdamW& optimizer) {
  const CheckpointReader reader = CheckpointReader::Open(directory, Verify::kHashes);
  for (const OwnedRange& range : optimizer.owned()) {
    const ParamSpec& spec = params.spec(range.param);
    const auto read = [&](const char* kind, const Tensor& to) {
      const auto name_of = [&](const std::string& name) { return kind + name; };
      ReadInto(ctx, reader, directory, spec, range.begin, name_of, to);
    };
    read(kMaster, range.master);
    read(kFirstMoment, range.m);
    read(kSecondMoment, range.v);
  }
  RestoreFrozen(ctx, reader, directory, params);
  optimizer.PublishMasters(ctx);
  return Json::parse(reader.state());
}

Json RestoreValues(Context& ctx, const std::string& directory, ParamStore& params) {
  const CheckpointReader reader = CheckpointReader::Open(directory, Verify::kHashes);
  const auto name_of = [&](const std::string& name) {
    return NameOfValue(reader, kMaster, kFrozen, name);
  };
  for (ParamId id = 0; id < params.num_params(); ++id) {
    if (!params.is_frozen(id)) ReadKept(ctx, reader, directory, params, id, name_of);
  }
  RestoreFrozen(ctx, reader, directory, params);
  return Json::parse(reader.state());
}

}  // namespace omnitrain
