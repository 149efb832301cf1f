#include <filesystem>

#include "core/base/json.h"
#include "core/checkpoint/safetensors.h"
#include "core/train/parity.h"
#include "data/image/parity.h"
#include "data/tokenizer/parity.h"

namespace omnitrain {

PreprocessParity RunPreprocessParity(const std::string& dir) {
  PreprocessParity result;
  const Json meta = ReadJsonFile(dir + "/meta.json", ErrorCode::kData);
  const SafetensorsFile expected = SafetensorsFile::Open(dir + "/expected.safetensors");
  std::vector<ImageCase> cases;
  std::vector<std::vector<float>> pixels;
  const std::string suffix = ".pixel_values";
  for (const std::string& name : expected.names()) {
    if (name.size() < suffix.size() ||
        name.compare(name.size() - suffix.size(), suffix.size(), suffix) != 0) {
      continue;
    }
    ImageCase c;
    c.name = name.substr(0, name.size() - suffix.size());
    const size_t dot = c.name.find('.');
    const std::string config = c.name.substr(0, dot), file = c.name.substr(dot + 1);
    OT_REQUIRE(meta.contains("images") && meta["images"].contains(config), ErrorCode::kData,
               "{}/meta.json: no image settings '{}', which {} needs", dir, config, name);
    c.config = ParseImageProcessorConfig(meta["images"][config].at("config").dump(),
                                         dir + "/meta.json images." + config);
    c.bytes = ReadFile(dir + "/" + file, ErrorCode::kData);
    const auto grid = expected.ReadAll<int64_t>(c.name + ".grid_thw");
    OT_REQUIRE(grid.size() == 3, ErrorCode::kData, "{}: {}.grid_thw has {} values", expected.path(),
               c.name, grid.size());
    c.grid = {static_cast<int>(grid[0]), static_cast<int>(grid[1]), static_cast<int>(grid[2])};
    pixels.push_back(expected.ReadAll<float>(name));
    c.num_values = static_cast<int64_t>(pixels.back().size());
    cases.push_back(std::move(c));
  }
  for (size_t i = 0; i < cases.size(); ++i) cases[i].pixels = pixels[i].data();
  const PreprocessReport images = CheckImageCases(cases);
  for (const ImageCaseResult& c : images.cases) result.lines.push_back(Describe(c));
  result.ok = images.ok();

  const std::string tokenizer = dir + "/tokenizer.json", texts = dir + "/tokenizer_cases.json";
  if (std::filesystem::exists(tokenizer) && std::filesystem::exists(texts)) {
    const TokenizerParity parity = CompareTokenizer(tokenizer, texts);
    result.lines.push_back(
        fmt::format("tokenizer: {} of {} encodings and {} decodings exact{}{}",
                    parity.num_exact_encodings, parity.num_cases, parity.num_exact_decodings,
                    parity.first_difference.empty() ? "" : "; first: ", parity.first_difference));
    result.ok = result.ok && parity.passed();
  }
  return result;
}

}  // namespace omnitrain
