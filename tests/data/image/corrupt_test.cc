#include <unistd.h>

#include <cstdio>
#include <functional>
#include <optional>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "data/image/decode.h"
#include "tests/data/image/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

/// The message of the kData error that decoding gives; nothing when it succeeds. Other exceptions
/// fail the test.
std::optional<std::string> Refusal(std::string_view bytes, const DecodeOptions& options = {}) {
  try {
    const Image image = DecodeImage(bytes, options, "shard-7/a");
    REQUIRE(image.rgb.size() == size_t(image.height) * image.width * 3);
    return std::nullopt;
  } catch (const Error& e) {
    REQUIRE(e.code() == ErrorCode::kData);
    REQUIRE(std::string(e.what()).rfind("shard-7/a: ", 0) == 0);
    return e.what();
  }
}

/// What `action` writes to stderr.
std::string StderrOf(const std::function<void()>& action) {
  std::fflush(stderr);
  const int saved = dup(STDERR_FILENO);
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  dup2(fileno(file), STDERR_FILENO);
  action();
  std::fflush(stderr);
  dup2(saved, STDERR_FILENO);
  close(saved);
  std::string text(static_cast<size_t>(lseek(fileno(file), 0, SEEK_END)), '\0');
  REQUIRE(pread(fileno(file), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  std::fclose(file);
  return text;
}

std::vector<std::string> AllFixtures() {
  std::vector<std::string> names;
  for (const std::string& name : DecodeFixtures()) names.push_back("decode/" + name);
  for (const char* name : {"q85.jpg", "alpha_rgba.png", "lossless.webp", "palette.png"})
    names.push_back(name);
  return names;
}

bool IsWebp(const std::string& name) { return name.find(".webp") != std::string::npos; }

TEST_CASE("A file cut anywhere is refused, silently but for the error") {
  const std::string noise = StderrOf([] {
    for (const std::string& name : AllFixtures()) {
      const std::string bytes = ReadFixture(name);
      // The last byte of a WebP may be padding.
      for (size_t size = 0; size + (IsWebp(name) ? 1 : 0) < bytes.size(); ++size) {
        INFO(name << " cut to " << size << " of " << bytes.size());
        REQUIRE(Refusal(std::string_view(bytes).substr(0, size)));
      }
    }
  });
  CHECK(noise == "");
}

TEST_CASE("Random damage is refused or decodes, and nothing else") {
  DecodeOptions options;
  options.max_pixels = 1 << 20;
  int num_refused = 0, num_decoded = 0;
  uint64_t draw = 0;
  const auto random = [&](uint64_t bound) { return RandomBits(11, 4, draw++) % bound; };
  const std::string noise = StderrOf([&] {
    for (const std::string& name : AllFixtures()) {
      const std::string bytes = ReadFixture(name);
      for (int i = 0; i < 150; ++i) {
        std::string damaged = bytes;
        const int num_flips = 1 + static_cast<int>(random(4));
        for (int k = 0; k < num_flips; ++k) {
          // Half of the damage goes to the headers, where it does most.
          const size_t reach = random(2) == 0 ? std::min<size_t>(bytes.size(), 64) : bytes.size();
          damaged[random(reach)] ^= static_cast<char>(1 + random(255));
        }
        INFO(name << ", iteration " << i);
        ++(Refusal(damaged, options) ? num_refused : num_decoded);
      }
    }
  });
  CHECK(noise == "");
  CHECK(num_refused > 3000);
  CHECK(num_decoded > 100);  // damage to metadata and to pixels without a checksum
}

TEST_CASE("Refusals say what is wrong") {
  using Catch::Matchers::Contains;
  CHECK_THAT(*Refusal(""),
             Contains("unknown image format (JPEG, PNG and WebP are known), 0 bytes"));
  CHECK_THAT(*Refusal("GIF89a...."), Contains("starting with 47 49 46 38"));
  CHECK_THAT(*Refusal("\xff\xd8" + std::string(4998, '\xff')),
             Contains("no frame header in 5000 bytes"));
  CHECK_THAT(*Refusal(std::string(5000, '\0')), Contains("unknown image format"));

  const std::string jpeg = ReadFixture("q85.jpg"), png = ReadFixture("alpha_rgba.png");
  CHECK_THAT(*Refusal(std::string_view(jpeg).substr(0, jpeg.size() / 2)),
             Contains("truncated or corrupt JPEG: Premature end of JPEG file"));
  CHECK_THAT(*Refusal(std::string_view(png).substr(0, png.size() / 2)),
             Contains("truncated or corrupt PNG: file ends early"));
  std::string flipped = png;
  flipped[png.size() / 2] ^= 1;
  CHECK_THAT(*Refusal(flipped), Contains("truncated or corrupt PNG: "));
  const std::string webp = ReadFixture("decode/lossy.webp");
  CHECK_THAT(*Refusal(std::string_view(webp).substr(0, webp.size() / 2)),
             Contains("truncated or corrupt WebP: file ends early"));
}

TEST_CASE("Bombs are refused by their header") {
  using Catch::Matchers::Contains;
  std::string png = ReadFixture("grey.png");
  png.replace(16, 8, std::string("\x00\x01\x86\xa0\x00\x01\x86\xa0", 8));
  CHECK_THAT(
      *Refusal(png),
      Contains("PNG of 100000 x 100000 = 10000000000 pixels is above the limit of 178956970"));
  png.replace(16, 8, std::string("\x80\x00\x00\x00\x00\x00\x00\x01", 8));
  CHECK_THAT(*Refusal(png), Contains("corrupt PNG: the header claims"));
  png.replace(16, 8, std::string("\x00\x00\x00\x00\x00\x00\x00\x01", 8));
  CHECK_THAT(*Refusal(png), Contains("PNG with 0 x 1 pixels"));

  std::string jpeg = ReadFixture("q85.jpg");
  const size_t frame = jpeg.find("\xff\xc0");
  jpeg.replace(frame + 5, 4, "\xff\xff\xff\xff");
  CHECK_THAT(*Refusal(jpeg), Contains("JPEG of 65535 x 65535"));
}

TEST_CASE("A JPEG of endless scans is refused") {
  const std::string jpeg = ReadFixture("decode/progressive.jpg");
  const size_t scan = jpeg.find("\xff\xda"), end = jpeg.find("\xff\xc4", scan);
  std::string bomb = jpeg.substr(0, end);
  for (int i = 0; i < 600; ++i) bomb += jpeg.substr(scan, end - scan);
  bomb += jpeg.substr(end);
  CHECK_THAT(*Refusal(bomb), Catch::Matchers::Contains("more than 500 scans"));
}

}  // namespace
}  // namespace omnitrain
