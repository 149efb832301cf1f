#include "data/source/tar.h"

#include <cstdlib>

#include "core/base/json.h"
#include "tests/support/catch.h"
#include "tools/dataset/tar_writer.h"

namespace omnitrain {
namespace {

std::string Temporary(const std::string& name, const std::string& bytes) {
  const std::string path = std::string(std::getenv("TEST_TMPDIR")) + "/" + name;
  WriteFileAtomically(path, bytes, ErrorCode::kData);
  return path;
}

std::string Refusal(const std::string& bytes) {
  const std::string path = Temporary("refused.tar", bytes);
  try {
    ReadTarIndex(RandomAccessFile(path, RandomAccessFile::Handle::kKeepOpen));
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kData);
    CHECK(std::string(e.what()).find("refused.tar") != std::string::npos);
    return e.what();
  }
  return "";
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const std::string kFolder = "tests/data/source/tars/";
const std::string kLong =
    "a-folder-with-a-long-name/a-folder-with-a-long-name/a-folder-with-a-long-name/"
    "and-a-file-whose-own-name-is-long-enough-to-need-an-extension-of-the-format";

TEST_CASE("ustar, GNU and pax archives list the same files") {
  for (const char* name : {"ustar.tar", "gnu.tar", "pax.tar"}) {
    INFO(name);
    const RandomAccessFile file(kFolder + name, RandomAccessFile::Handle::kOpenPerRead);
    const auto entries = ReadTarIndex(file);
    std::vector<std::string> paths;
    for (const TarEntry& entry : entries) paths.push_back(entry.path);
    CHECK(paths == std::vector<std::string>{"first.png", "first.txt", kLong + ".png",
                                            kLong + ".txt", "m.0.png", "m.1.png", "m.json"});
    CHECK(file.Read(entries[1].offset, entries[1].size) == "The first.\n");
    CHECK(file.Read(entries[3].offset, entries[3].size) == "The long one.");
  }
}

TEST_CASE("A tar that is cut anywhere is refused") {
  for (const char* name : {"ustar.tar", "gnu.tar", "pax.tar"}) {
    const std::string whole = ReadFile(kFolder + name, ErrorCode::kData);
    const RandomAccessFile file(kFolder + name, RandomAccessFile::Handle::kKeepOpen);
    const auto last = ReadTarIndex(file).back();
    const auto end = static_cast<size_t>((last.offset + last.size + 511) / 512 * 512);
    for (size_t size = 0; size < end + 512; size += 256) {
      INFO(name << " cut to " << size);
      CHECK(Contains(Refusal(whole.substr(0, size)), "truncated"));
    }
    CHECK(Refusal(whole.substr(0, end + 512)).empty());
  }
}

TEST_CASE("Damage and compression are named") {
  std::string bytes = ReadFile(kFolder + "ustar.tar", ErrorCode::kData);
  bytes[3] ^= 1;
  CHECK(Contains(Refusal(bytes), "checksum at byte 0"));
  CHECK(Contains(Refusal("\x1f\x8b\x08" + std::string(600, 'x')), "gzip"));
  CHECK(Contains(Refusal("\x28\xb5\x2f\xfd" + std::string(600, 'x')), "zstd"));
  CHECK(Contains(Refusal(std::string(2048, 'x')), "not a tar"));
}

TEST_CASE("Headers are read across the border of a window") {
  TarWriter writer;
  for (int i = 0; i < 300; ++i) {
    writer.Add(fmt::format("{:03}.txt", i), std::string(static_cast<size_t>(i * 37 % 1500), 'a'));
  }
  const RandomAccessFile file(Temporary("many.tar", writer.Finish()),
                              RandomAccessFile::Handle::kKeepOpen);
  const auto entries = ReadTarIndex(file);
  REQUIRE(entries.size() == 300);
  for (int i = 0; i < 300; ++i) {
    CHECK(entries[static_cast<size_t>(i)].path == fmt::format("{:03}.txt", i));
    CHECK(entries[static_cast<size_t>(i)].size == i * 37 % 1500);
  }
}

}  // namespace
}  // namespace omnitrain
