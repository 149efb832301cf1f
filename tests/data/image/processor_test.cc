#include "data/image/processor.h"

#include <thread>

#include "core/base/error.h"
#include "data/image/resize.h"
#include "tests/data/image/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Catch::Matchers::Contains;

TEST_CASE("SmartResize gives the sizes of transformers") {
  struct Case {
    int height, width, factor;
    int64_t min_pixels, max_pixels;
    int expected_height, expected_width;
  };
  const Case cases[] = {
      {1, 1, 28, 3136, 1003520, 56, 56},
      {224, 224, 28, 3136, 1003520, 224, 224},
      {1080, 1920, 28, 3136, 1003520, 728, 1316},
      {42, 70, 28, 784, 1003520, 56, 56},  // 1.5 and 2.5 factors both round to 2
      {14, 42, 28, 784, 1003520, 28, 56},
      {70, 98, 28, 784, 1003520, 56, 112},
      {10, 1000, 28, 3136, 1003520, 28, 560},
      {10, 2000, 28, 3136, 12845056, 28, 812},  // an aspect ratio of 200 is the last allowed
      {2000, 10, 28, 3136, 1003520, 812, 28},
      {3000, 4000, 32, 65536, 16777216, 3008, 4000},
      {5000, 7000, 32, 65536, 16777216, 3456, 4832},
      {100, 20000, 28, 3136, 100352, 28, 4480},
      {80, 48, 32, 1024, 1003520, 64, 64},
      {37, 301, 32, 65536, 307200, 96, 736},
  };
  for (const Case& c : cases) {
    INFO(c.height << " x " << c.width);
    CHECK(SmartResize(c.height, c.width, c.factor, c.min_pixels, c.max_pixels) ==
          std::pair(c.expected_height, c.expected_width));
  }
  CHECK_THROWS_WITH(SmartResize(10, 2001, 28, 3136, 1003520),
                    Contains("2001 x 10 pixels: one side is more than 200"));
  CHECK_THROWS_AS(SmartResize(0, 5, 28, 3136, 1003520), Error);
}

TEST_CASE("The config file: defaults, precedence, refusals") {
  const auto parse = [](const std::string& keys) {
    return ParseImageProcessorConfig(
        R"({"image_processor_type": "Qwen2VLImageProcessor")" + keys + "}", "p.json");
  };
  const ImageProcessorConfig defaults = parse("");
  CHECK(defaults.patch_size == 14);
  CHECK(defaults.min_pixels == 3136);
  CHECK(defaults.max_pixels == 1003520);
  CHECK(defaults.mean[2] == 0.40821073f);

  CHECK(parse(R"(, "size": {"shortest_edge": 5000, "longest_edge": 9000})").min_pixels == 5000);
  CHECK(parse(R"(, "size": {"shortest_edge": 5000, "longest_edge": 9000}, "max_pixels": 8000)")
            .max_pixels == 8000);
  CHECK(parse(R"(, "size": {"min_pixels": 1, "max_pixels": 2}, "min_pixels": 10, "max_pixels": 20)")
            .max_pixels == 20);
  CHECK(parse(R"(, "min_pixels": null, "feature_size": 128)").min_pixels == 3136);
  const ImageProcessorConfig other = parse(
      R"(, "patch_size": 16, "image_mean": [0.5, 0.5, 0.5], "do_normalize": false, "do_rescale": false,
         "do_resize": false, "rescale_factor": 0.25, "temporal_patch_size": 1, "merge_size": 3)");
  CHECK(other.factor() == 48);
  CHECK(other.patch_dim() == 768);
  CHECK(other.mean == std::array<float, 3>{0.5f, 0.5f, 0.5f});
  CHECK(other.rescale_factor == 0.25);
  CHECK_FALSE(other.do_resize);
  CHECK_FALSE(other.do_rescale);
  CHECK_FALSE(other.do_normalize);

  CHECK_THROWS_WITH(ParseImageProcessorConfig("{}", "p.json"),
                    Contains("p.json: image_processor_type is missing"));
  CHECK_THROWS_WITH(
      ParseImageProcessorConfig(R"({"image_processor_type": "CLIPImageProcessor"})", "p.json"),
      Contains(
          R"(image_processor_type is "CLIPImageProcessor"; known are Qwen2VLImageProcessor, )"));
  CHECK_THROWS_WITH(ParseImageProcessorConfig("[", "p.json"), Contains("p.json: not valid JSON"));
  CHECK_THROWS_WITH(parse(R"(, "resample": 2)"),
                    Contains("p.json: resample is 2, only 3 (bicubic)"));
  CHECK_THROWS_WITH(parse(R"(, "do_convert_rgb": false)"), Contains("do_convert_rgb is false"));
  CHECK_THROWS_WITH(parse(R"(, "do_resize": 1)"),
                    Contains("do_resize is 1, expected true or false"));
  CHECK_THROWS_WITH(parse(R"(, "patch_size": 0)"),
                    Contains("patch_size is 0, expected an integer from 1"));
  CHECK_THROWS_WITH(parse(R"(, "patch_size": 14.5)"), Contains("patch_size is 14.5"));
  CHECK_THROWS_WITH(parse(R"(, "image_std": [1, 2])"),
                    Contains("image_std is [1,2], expected three numbers"));
  CHECK_THROWS_WITH(parse(R"(, "image_std": [1, 2, 0])"), Contains("image_std has 0"));
  CHECK_THROWS_WITH(parse(R"(, "size": {"shortest_edge": 5})"),
                    Contains("size has no longest_edge"));
  CHECK_THROWS_WITH(parse(R"(, "min_pixels": 10, "max_pixels": 5)"),
                    Contains("min_pixels 10 is above max_pixels 5"));
  CHECK_THROWS_WITH(LoadImageProcessorConfig("nowhere/p.json"),
                    Contains("nowhere/p.json: cannot open"));
}

ImageProcessorConfig SmallConfig() {
  ImageProcessorConfig config;
  config.patch_size = 3;
  config.merge_size = 2;
  config.temporal_patch_size = 2;
  config.min_pixels = 1;
  return config;
}

TEST_CASE("Patches come block by block, each channel, time, y, x") {
  const ImageProcessorConfig config = SmallConfig();
  const Image first = HashImage(12, 18), second = ResizeBicubic(HashImage(5, 9), 12, 18);
  const Image* frames[] = {&first, &second};
  std::vector<float> out(4 * 6 * config.patch_dim());
  PatchifyFrames(frames, config, out.data());
  size_t at = 0;
  for (int block_y = 0; block_y < 2; ++block_y)
    for (int block_x = 0; block_x < 3; ++block_x)
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
          for (int c = 0; c < 3; ++c)
            for (int t = 0; t < 2; ++t)
              for (int y = 0; y < 3; ++y)
                for (int x = 0; x < 3; ++x) {
                  const int row = (block_y * 2 + i) * 3 + y, column = (block_x * 2 + j) * 3 + x;
                  const int level = frames[t]->rgb[(row * 18 + column) * 3 + c];
                  const float value = static_cast<float>(level * config.rescale_factor);
                  REQUIRE(out[at++] == (value - config.mean[c]) / config.std[c]);
                }
  CHECK(at == out.size());
}

TEST_CASE("A picture is repeated in time, and its grid follows from its size") {
  const ImageProcessorConfig config = SmallConfig();
  for (const auto& [height, width] : {std::pair(1, 1), {13, 20}, {12, 18}, {40, 7}, {1, 200}}) {
    INFO(height << " x " << width);
    const Image image = HashImage(height, width);
    const PatchGrid grid = GridOf(height, width, config);
    std::vector<float> out;
    CHECK(ProcessImage(image, config, &out) == grid);
    REQUIRE(static_cast<int64_t>(out.size()) == grid.num_patches() * config.patch_dim());
    CHECK(grid.num_tokens(config.merge_size) * 4 == grid.num_patches());
    const Image resized = ResizeBicubic(image, grid.h * 3, grid.w * 3);
    const Image* frames[] = {&resized, &resized};
    std::vector<float> expected(out.size());
    PatchifyFrames(frames, config, expected.data());
    CHECK(out == expected);
    bool is_repeated = true;
    for (size_t i = 0; i < out.size(); ++i) is_repeated &= out[i] == out[i / 18 * 18 + i % 9];
    CHECK(is_repeated);
  }
  std::vector<float> out;
  CHECK_THROWS_WITH(ProcessImage(HashImage(1, 201), config, &out), Contains("201 x 1 pixels"));
}

TEST_CASE("do_resize, do_rescale and do_normalize are honoured") {
  ImageProcessorConfig config = SmallConfig();
  config.do_resize = false;
  std::vector<float> out;
  CHECK_THROWS_WITH(ProcessImage(HashImage(12, 17), config, &out), Contains("do_resize is off"));
  config.do_normalize = false;
  const Image image = HashImage(12, 18);
  CHECK(ProcessImage(image, config, &out) == PatchGrid{1, 4, 6});
  CHECK(out[1] == static_cast<float>(image.rgb[3] / 255.0));
  config.do_rescale = false;
  ProcessImage(image, config, &out);
  CHECK(out[1] == image.rgb[3]);
}

TEST_CASE("Loader threads do not disturb each other") {
  const ImageProcessorConfig config;
  const Image image = HashImage(61, 47);
  std::vector<float> expected;
  ProcessImage(image, config, &expected);
  std::vector<std::vector<float>> outs(4);
  std::vector<std::thread> threads;
  for (auto& out : outs) threads.emplace_back([&] { ProcessImage(image, config, &out); });
  for (auto& thread : threads) thread.join();
  for (const auto& out : outs) CHECK(out == expected);
}

}  // namespace
}  // namespace omnitrain
