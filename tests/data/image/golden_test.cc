#include <cmath>
#include <limits>

#include "data/image/parity.h"
#include "tests/data/image/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

struct GoldenCase {
  ImageCase image_case;
  std::vector<float> pixels;
};

/// pixel_values as transformers made them, from the picture of their levels
/// (tests/golden/preprocess/images/README.md).
std::vector<float> PixelValues(const Image& levels, const ImageProcessorConfig& config) {
  const int p = config.patch_size, m = config.merge_size;
  std::vector<float> out;
  for (int block_y = 0; block_y < levels.height; block_y += p * m)
    for (int block_x = 0; block_x < levels.width; block_x += p * m)
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < m; ++j)
          for (int c = 0; c < 3; ++c)
            for (int t = 0; t < config.temporal_patch_size; ++t)
              for (int y = 0; y < p; ++y)
                for (int x = 0; x < p; ++x) {
                  const int row = block_y + i * p + y, column = block_x + j * p + x;
                  const int level = levels.rgb[(size_t(row) * levels.width + column) * 3 + c];
                  const float value = static_cast<float>(level * 0.00392156862745098);
                  out.push_back((value - config.mean[c]) / config.std[c]);
                }
  return out;
}

GoldenCase LoadCase(const std::string& config_name, const std::string& file) {
  GoldenCase golden;
  ImageCase& c = golden.image_case;
  c.name = config_name + "." + file;
  c.bytes = ReadFixture(file);
  c.config = ParseImageProcessorConfig(ReadFixture(config_name + ".json"), config_name);
  const Image levels = ReadExpected("expected/" + c.name + ".png");
  c.grid = {1, levels.height / c.config.patch_size, levels.width / c.config.patch_size};
  golden.pixels = PixelValues(levels, c.config);
  c.num_values = static_cast<int64_t>(golden.pixels.size());
  return golden;
}

PreprocessReport Check(std::vector<GoldenCase>& golden) {
  std::vector<ImageCase> cases;
  for (GoldenCase& g : golden) {
    g.image_case.pixels = g.pixels.data();
    cases.push_back(g.image_case);
  }
  return CheckImageCases(cases);
}

TEST_CASE("Patches equal those of transformers' PIL processor to the last bit") {
  std::vector<GoldenCase> golden;
  for (const char* file :
       {"alpha_la.png", "alpha_rgba.png", "grey.png", "image_2.png", "image_3.png", "image_5.png",
        "image_noise.png", "lossless.webp", "palette.png", "q60.jpg", "q85.jpg"}) {
    golden.push_back(LoadCase("qwen2_vl_pil", file));
  }
  const PreprocessReport report = Check(golden);
  CHECK(report.ok());
  for (const ImageCaseResult& result : report.cases) {
    INFO(Describe(result));
    CHECK(result.ok);
    CHECK(result.max_abs_level == 0.0);
    CHECK(result.num_equal == result.num_values);
  }
}

TEST_CASE("Patches are within a level of transformers' torchvision processor") {
  std::vector<GoldenCase> golden;
  for (const char* file : {"alpha_rgba.png", "image_3.png", "image_noise.png", "q85.jpg"}) {
    golden.push_back(LoadCase("qwen2_vl_torchvision", file));
    golden.push_back(LoadCase("qwen3_vl", file));
  }
  golden.push_back(LoadCase("qwen3_vl", "image_5.png"));
  const PreprocessReport report = Check(golden);
  CHECK(report.ok());
  for (const ImageCaseResult& result : report.cases) {
    INFO(Describe(result));
    CHECK(result.ok);
    CHECK(result.num_within >= 0.9999 * result.num_values);
  }
}

TEST_CASE("The check itself can fail") {
  std::vector<GoldenCase> golden = {LoadCase("qwen3_vl", "q85.jpg")};
  REQUIRE(Check(golden).ok());
  CHECK_FALSE(CheckImageCases({}).ok());

  const GoldenCase good = golden[0];
  const size_t num_bad = good.pixels.size() / 900;
  for (size_t i = 0; i < num_bad; ++i) golden[0].pixels[i * 900] += 3.0f / 127.5f;
  CHECK_FALSE(Check(golden).ok());
  CHECK(Check(golden).cases[0].max_abs_level > 1.9);

  golden[0] = good;
  for (size_t i = 0; i < num_bad; ++i) golden[0].pixels[i * 900] = std::nanf("");
  CHECK_FALSE(Check(golden).ok());
  CHECK(Check(golden).cases[0].max_abs_level == std::numeric_limits<double>::infinity());

  golden[0] = good;
  golden[0].image_case.grid.h += 2;
  CHECK_FALSE(Check(golden).ok());
  CHECK_THAT(Describe(Check(golden).cases[0]),
             Catch::Matchers::Contains("FAILED: grid [1, 34, 8], expected [1, 36, 8]"));

  golden[0] = good;
  golden[0].image_case.num_values -= 1;
  CHECK_FALSE(Check(golden).ok());
}

}  // namespace
}  // namespace omnitrain
