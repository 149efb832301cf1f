#include "data/image/decode.h"

#include <algorithm>

#include "core/base/error.h"
#include "tests/data/image/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using AlphaMode = DecodeOptions::AlphaMode;

DecodeOptions WithAlpha(AlphaMode mode) {
  DecodeOptions options;
  options.alpha = mode;
  return options;
}

int LargestDifference(const Image& a, const Image& b) {
  REQUIRE(a.height == b.height);
  REQUIRE(a.width == b.width);
  REQUIRE(a.rgb.size() == b.rgb.size());
  int largest = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i)
    largest = std::max(largest, std::abs(a.rgb[i] - b.rgb[i]));
  return largest;
}

TEST_CASE("Every kind of file decodes to PIL's pixels") {
  for (const std::string& name : DecodeFixtures()) {
    INFO(name);
    const std::string bytes = ReadFixture("decode/" + name);
    const Image white = DecodeImage(bytes, WithAlpha(AlphaMode::kWhite), name);
    CHECK(LargestDifference(white, ReadExpected("decode/" + name + ".white.png")) == 0);
    const bool drop_differs = FixtureExists("decode/" + name + ".drop.png");
    const Image drop = DecodeImage(bytes, WithAlpha(AlphaMode::kDrop), name);
    CHECK(LargestDifference(drop, ReadExpected("decode/" + name +
                                               (drop_differs ? ".drop.png" : ".white.png"))) == 0);
  }
}

TEST_CASE("The header has the decoded size, also without the end of the file") {
  for (const std::string& name : DecodeFixtures()) {
    INFO(name);
    const std::string bytes = ReadFixture("decode/" + name);
    const Image image = DecodeImage(bytes, {}, name);
    for (const size_t size : {bytes.size(), bytes.size() * 4 / 5}) {
      if (size < 64) continue;
      const ImageHeader header = ReadImageHeader(std::string_view(bytes).substr(0, size), name);
      CHECK(header.height == image.height);
      CHECK(header.width == image.width);
    }
  }
  CHECK(ReadImageHeader(ReadFixture("q85.jpg"), "x").format == ImageFormat::kJpeg);
  CHECK(ReadImageHeader(ReadFixture("grey.png"), "x").format == ImageFormat::kPng);
  CHECK(ReadImageHeader(ReadFixture("lossless.webp"), "x").format == ImageFormat::kWebp);
}

TEST_CASE("EXIF orientation is left alone") {
  const ImageHeader header = ReadImageHeader(ReadFixture("decode/rotated_exif.jpg"), "x");
  CHECK(header.height == 17);
  CHECK(header.width == 23);
}

TEST_CASE("The pixel limit is inclusive") {
  const std::string bytes = ReadFixture("decode/rgb16.png");
  DecodeOptions options;
  options.max_pixels = 17 * 23;
  CHECK_NOTHROW(DecodeImage(bytes, options, "x"));
  options.max_pixels = 17 * 23 - 1;
  CHECK_THROWS_WITH(
      DecodeImage(bytes, options, "shard-7/a.png"),
      Catch::Matchers::StartsWith("shard-7/a.png: PNG of 23 x 17 = 391 pixels is above"));
}

}  // namespace
}  // namespace omnitrain
