#include "data/image/resize.h"

#include "tests/data/image/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

uint64_t Fnv1a(const std::vector<uint8_t>& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

TEST_CASE("Resized pixels are Pillow's") {
  // Hashes of Image.fromarray(HashImage).resize((width, height), BICUBIC), Pillow 9.4.
  struct Case {
    int in_height, in_width, height, width;
    uint64_t hash;
  };
  const Case cases[] = {
      {1, 1, 1, 1, 0xd7aabf186aab8161},         {1, 1, 56, 28, 0xfaecf34f22536aa5},
      {7, 5, 28, 56, 0x67ad2c396526f3b2},       {37, 301, 28, 308, 0x4bd5f8ae8b263359},
      {300, 280, 112, 140, 0x1c445ba88c305dd1}, {50, 50, 49, 51, 0x4adf81f5239fb29a},
      {3, 1000, 28, 28, 0x47631c0fff2c75dd},    {200, 3, 200, 200, 0xd7a3c1c19b749354},
      {64, 64, 64, 128, 0xe7817bb18e9e3422},    {64, 64, 128, 64, 0x735ceaac3caa3075},
      {97, 89, 20, 13, 0x7f49dc7379a03b41},     {480, 640, 224, 280, 0xfebd826765c1451e},
      {33, 17, 330, 170, 0x93d0ac61f2490e98},   {2000, 3, 5, 7, 0x2659d84ad31f3f24},
      {513, 511, 16, 16, 0x82cdf2f49571c7ed},   {3000, 2, 1, 1, 0x2fbd121ae17f4037},
  };
  for (const Case& c : cases) {
    INFO(c.in_height << " x " << c.in_width << " to " << c.height << " x " << c.width);
    const Image out = ResizeBicubic(HashImage(c.in_height, c.in_width), c.height, c.width);
    CHECK(out.height == c.height);
    CHECK(out.width == c.width);
    CHECK(Fnv1a(out.rgb) == c.hash);
  }
}

TEST_CASE("A flat picture stays flat, extremes do not wrap around") {
  for (const int level : {0, 1, 127, 254, 255}) {
    const Image flat{19, 31, std::vector<uint8_t>(19 * 31 * 3, static_cast<uint8_t>(level))};
    for (const auto& [height, width] : {std::pair(5, 60), {60, 5}, {1, 1}, {19, 200}}) {
      const Image out = ResizeBicubic(flat, height, width);
      CHECK(out.rgb ==
            std::vector<uint8_t>(size_t(height) * width * 3, static_cast<uint8_t>(level)));
    }
  }
}

TEST_CASE("Broken pictures are our own fault") {
  CHECK_THROWS(ResizeBicubic(Image{2, 2, std::vector<uint8_t>(11)}, 4, 4));
  CHECK_THROWS(ResizeBicubic(Image{}, 4, 4));
  CHECK_THROWS(ResizeBicubic(HashImage(2, 2), 0, 4));
}

}  // namespace
}  // namespace omnitrain
