#include "core/checkpoint/safetensors.h"

#include <cstring>
#include <functional>
#include <numeric>

#include "core/base/rng.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/safetensors_writer.h"
#include "tests/core/checkpoint/files.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

// A file from its parts, whatever they are.
std::string MakeFile(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  return bytes + header + data;
}

std::string OpenMessage(const TemporaryDirectory& directory, const std::string& bytes) {
  const std::string path = directory / "x.safetensors";
  WriteBytes(path, bytes);
  return MessageOf([&] { SafetensorsFile::Open(path); });
}

// Three tensors: 5-D f32, bf16, i64 and one without elements.
void WriteSample(const std::string& path) {
  static const std::vector<float> patch = [] {
    std::vector<float> values(2 * 3 * 2 * 2 * 2);
    std::iota(values.begin(), values.end(), -5.5f);
    return values;
  }();
  static const std::vector<int64_t> ids = {1, -100, int64_t{1} << 40};
  static const std::vector<uint16_t> bf16 = {0x3f80, 0xc000};
  WriteSafetensors(path, {MemorySource("w", DType::kBF16, {2, 1}, bf16.data()),
                          MemorySource("patch", DType::kF32, {2, 3, 2, 2, 2}, patch.data()),
                          MemorySource("none", DType::kF32, {0, 7}, nullptr),
                          MemorySource("ids", DType::kI64, {1, 3}, ids.data())});
}

TEST_CASE("What is written is read, in any float type and any range") {
  TemporaryDirectory directory;
  const std::string path = directory / "a.safetensors";
  WriteSample(path);
  const SafetensorsFile file = SafetensorsFile::Open(path);
  CHECK(file.names() == std::vector<std::string>{"ids", "patch", "none", "w"});
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.Find("patch").shape == std::vector<int64_t>{2, 3, 2, 2, 2});
  CHECK(file.Find("patch").dtype == StoredDType::kF32);
  CHECK(file.Find("ids").file_offset % 8 == 0);
  CHECK(file.ReadAll<int64_t>("ids") == std::vector<int64_t>{1, -100, int64_t{1} << 40});
  CHECK(file.ReadAll<float>("w") == std::vector<float>{1.0f, -2.0f});
  CHECK(file.ReadAll<double>("w") == std::vector<double>{1.0, -2.0});
  CHECK(file.ReadAll<float>("none").empty());
  double part[3];
  file.ReadAs("patch", DType::kF64, part, 45, 3);
  CHECK(part[0] == 39.5);
  CHECK(part[2] == 41.5);

  CHECK(Contains(MessageOf([&] { file.ReadAll<int32_t>("ids"); }), "tensor ids: element 2"));
  CHECK(Contains(MessageOf([&] { file.ReadAll<float>("ids"); }), "stored as I64"));
  CHECK(Contains(MessageOf([&] { file.Find("q"); }), "holds no tensor q"));
  CHECK_THROWS_AS(file.ReadAs("patch", DType::kF32, part, 47, 2), Error);
  file.RequireShape("w", {2, 1});
  const std::string message = MessageOf([&] { file.RequireShape("w", {1, 2}); });
  CHECK(Contains(message, path));
  CHECK(Contains(message, "w has shape [2, 1], the model's config asks for [1, 2]"));
}

TEST_CASE("A conversion longer than the buffers") {
  TemporaryDirectory directory;
  const int64_t count = 1'500'001;
  TensorSource source{"x", DType::kBF16, {count}, DType::kF32, nullptr};
  int64_t next = 0;
  source.read = [&](int64_t begin, int64_t n, void* out) {
    REQUIRE(begin == next);
    next += n;
    for (int64_t i = 0; i < n; ++i) {
      static_cast<float*>(out)[i] = static_cast<float>((begin + i) % 251);
    }
  };
  WriteSafetensors(directory / "x.safetensors", {source});
  REQUIRE(next == count);
  const auto values = SafetensorsFile::Open(directory / "x.safetensors").ReadAll<float>("x");
  int64_t num_wrong = 0;
  for (int64_t i = 0; i < count; ++i) num_wrong += values[i] != static_cast<float>(i % 251);
  CHECK(num_wrong == 0);
}

TEST_CASE("A file that does not add up is refused, with its name and the tensor's") {
  TemporaryDirectory d;
  const std::string a = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::string eight(8, 'x'), sixteen(16, 'x');
  CHECK(OpenMessage(d, MakeFile("{" + a + "}  ", eight)) == "no error");
  CHECK(OpenMessage(d, MakeFile("{}", "")) == "no error");

  CHECK(Contains(OpenMessage(d, ""), "x.safetensors: truncated"));
  CHECK(Contains(OpenMessage(d, "1234567"), "truncated"));
  CHECK(Contains(OpenMessage(d, MakeFile("", "")), "does not start with '{'"));
  CHECK(Contains(OpenMessage(d, MakeFile(" {}", "")), "does not start with '{'"));
  CHECK(Contains(OpenMessage(d, MakeFile("[]", "")), "does not start with '{'"));
  CHECK(Contains(OpenMessage(d, MakeFile("{" + a, eight)), "not valid JSON"));
  CHECK(Contains(OpenMessage(d, MakeFile("{" + a + "}x", eight)), "not valid JSON"));
  std::string huge = MakeFile("{}", "");
  huge[4] = 1;
  CHECK(Contains(OpenMessage(d, huge), "claims a header of 4294967298 bytes"));
  huge[7] = '\xff';
  CHECK(Contains(OpenMessage(d, huge), "claims a header"));
  CHECK(Contains(OpenMessage(d, MakeFile("{" + a + "," + a + "}", eight)), "\"a\" twice"));
  CHECK(Contains(OpenMessage(d, MakeFile(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],)"
                                         R"("data_offsets":[0,8]}})",
                                         eight)),
                 "\"dtype\" twice"));
  CHECK(Contains(OpenMessage(d, MakeFile("{" + a + "}", "x")), "truncated: tensor a"));
  CHECK(Contains(OpenMessage(d, MakeFile("{" + a + "}", sixteen)), "8 bytes follow"));
  CHECK(Contains(OpenMessage(d, MakeFile(R"({"__metadata__":{"k":1}})", "")), "k is no string"));
  CHECK(Contains(OpenMessage(d, MakeFile(R"({"__metadata__":[]})", "")), "no object"));

  const auto second = [&](const std::string& dtype, const std::string& shape,
                          const std::string& offsets) {
    return OpenMessage(d, MakeFile("{" + a + R"(,"b":{"dtype":")" + dtype + R"(","shape":)" +
                                       shape + R"(,"data_offsets":)" + offsets + "}}",
                                   sixteen));
  };
  CHECK(second("F32", "[2]", "[8,16]") == "no error");
  CHECK(second("F8_E4M3", "[8]", "[8,16]") == "no error");
  CHECK(Contains(second("F33", "[2]", "[8,16]"), "tensor b: unknown dtype \"F33\""));
  CHECK(Contains(second("F32", "[3]", "[8,16]"), "takes 12 bytes, data_offsets give it 8"));
  CHECK(Contains(second("F32", "[2]", "[4,12]"), "inside"));
  CHECK(Contains(second("F32", "[2]", "[12,20]"), "with a hole"));
  CHECK(Contains(second("F32", "[-2]", "[8,16]"), "no list of sizes"));
  CHECK(Contains(second("F32", "[2.0]", "[8,16]"), "no list of sizes"));
  CHECK(Contains(second("F32", "2", "[8,16]"), "no list of sizes"));
  CHECK(Contains(second("F32", "[4294967296,4294967296]", "[8,16]"), "too large"));
  CHECK(Contains(second("F32", "[18446744073709551615]", "[8,16]"), "no list of sizes"));
  CHECK(Contains(second("F32", "[2]", "[16,8]"), "data_offsets"));
  CHECK(Contains(second("F32", "[2]", "[8]"), "data_offsets"));
  CHECK(Contains(second("F32", "[2]", "[8,16],\"x\":1"), "only"));
  CHECK(Contains(MessageOf([&] { SafetensorsFile::Open(d / "absent"); }), "cannot open"));
  CHECK(Contains(MessageOf([&] { SafetensorsFile::Open(d.path()); }), "not a regular file"));
}

TEST_CASE("8-bit floats are known, and not read") {
  TemporaryDirectory d;
  WriteBytes(d / "f8",
             MakeFile(R"({"a":{"dtype":"F8_E5M2","shape":[1,4],"data_offsets":[0,4]}})", "abcd"));
  const SafetensorsFile file = SafetensorsFile::Open(d / "f8");
  CHECK(file.Find("a").num_bytes == 4);
  CHECK(Contains(MessageOf([&] { file.ReadAll<float>("a"); }), "stored as F8_E5M2"));
}

TEST_CASE("A file cut anywhere is refused when it is opened") {
  TemporaryDirectory directory;
  const std::string path = directory / "a.safetensors";
  WriteSample(path);
  const std::string whole = ReadBytes(path);
  for (size_t length = 0; length < whole.size(); ++length) {
    WriteBytes(path, whole.substr(0, length));
    const std::string message = MessageOf([&] { SafetensorsFile::Open(path); });
    if (!Contains(message, path)) FAIL("cut at " << length << ": " << message);
  }
}

TEST_CASE("A file cut after it was opened fails when it is read") {
  TemporaryDirectory directory;
  const std::string path = directory / "a.safetensors";
  WriteSample(path);
  const SafetensorsFile file = SafetensorsFile::Open(path);
  std::filesystem::resize_file(path, 100);
  CHECK(Contains(MessageOf([&] { file.ReadAll<float>("patch"); }), "truncated"));
}

TEST_CASE("Random damage to the header ends in Error or in a file that adds up") {
  TemporaryDirectory directory;
  const std::string path = directory / "a.safetensors";
  WriteSample(path);
  const std::string whole = ReadBytes(path);
  const size_t header_end =
      8 + static_cast<unsigned char>(whole[0]) + 256 * static_cast<unsigned char>(whole[1]);
  const std::string alphabet = "{}[]\",:0123456789eE-.\\u \xff";
  int num_refused = 0;
  for (uint32_t round = 0; round < 1500; ++round) {
    std::string bytes = whole;
    const auto random = Philox({round, 0, 0, 0}, {3, 4});
    const size_t num_edits = 1 + random[3] % 3;
    for (size_t i = 0; i < num_edits; ++i) {
      const size_t at = random[i] % header_end;
      const uint32_t choice = Philox({round, static_cast<uint32_t>(i), 1, 0}, {3, 4})[0];
      if (choice % 4 == 0) {
        bytes.erase(at, 1 + choice / 8 % 20);
      } else if (choice % 4 == 1) {
        bytes.insert(at,
                     std::string(1 + choice / 8 % 300, alphabet[choice / 4096 % alphabet.size()]));
      } else if (choice % 4 == 2) {
        bytes[at] = alphabet[choice / 8 % alphabet.size()];
      } else {
        bytes[at] = static_cast<char>(choice / 8);
      }
    }
    WriteBytes(path, bytes);
    const std::string message = MessageOf([&] {
      const SafetensorsFile file = SafetensorsFile::Open(path);
      for (const std::string& name : file.names()) {
        if (ToDType(file.Find(name).dtype) == DType::kF32) file.ReadAll<double>(name);
      }
    });
    REQUIRE_FALSE(Contains(message, "wrong code"));
    num_refused += message != "no error";
  }
  CHECK(num_refused > 1000);
}

TEST_CASE("A failed write leaves the old file and nothing else") {
  TemporaryDirectory directory;
  const std::string path = directory / "a.safetensors";
  WriteSample(path);
  const std::string old = ReadBytes(path);
  const std::vector<float> big(100000);
  const auto write = [&] {
    WriteSafetensors(path, {MemorySource("x", DType::kF32, {100000}, big.data())});
  };
  {
    FileSizeLimit full(4096);
    const std::string message = MessageOf(write);
    CHECK(Contains(message, path));
    CHECK(Contains(message, "cannot write: File too large"));
  }
  CHECK(ReadBytes(path) == old);
  TensorSource broken{"x", DType::kF32, {10}, DType::kF32, [](int64_t, int64_t, void*) {
                        Fail(ErrorCode::kCheckpoint, "no more");
                      }};
  CHECK(MessageOf([&] { WriteSafetensors(path, {broken}); }) == "no more");
  CHECK(Contains(MessageOf([&] { WriteSafetensors(path, {broken, broken}); }), "x is given twice"));
  CHECK(ReadBytes(path) == old);
  CHECK(ListDirectory(directory.path()) == std::vector<std::string>{"a.safetensors"});
  write();
  CHECK(SafetensorsFile::Open(path).names() == std::vector<std::string>{"x"});
}

TEST_CASE("Names that JSON must escape") {
  TemporaryDirectory directory;
  const std::vector<uint8_t> one = {7};
  const std::string name = "a\"\\\n\xc3\xa9";
  WriteSafetensors(directory / "a", {MemorySource(name, DType::kU8, {}, one.data())});
  const SafetensorsFile file = SafetensorsFile::Open(directory / "a");
  CHECK(file.ReadAll<int64_t>(name) == std::vector<int64_t>{7});
  CHECK(Contains(MessageOf([&] {
                   WriteSafetensors(directory / "b",
                                    {MemorySource("\xff", DType::kU8, {1}, one.data())});
                 }),
                 "not UTF-8"));
}

}  // namespace
}  // namespace omnitrain
