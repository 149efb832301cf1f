#include "tests/data/image/fixtures.h"

#include <algorithm>
#include <filesystem>

#include "core/base/check.h"
#include "core/base/json.h"
#include "data/image/decode.h"

namespace omnitrain {
namespace {

const std::string kFolder = "tests/golden/preprocess/images/";

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::string ReadFixture(const std::string& name) {
  return ReadFile(kFolder + name, ErrorCode::kInternal);
}

Image ReadExpected(const std::string& name) {
  DecodeOptions options;
  // Pillow writes a colour key along with the pixels.
  options.alpha = DecodeOptions::AlphaMode::kDrop;
  return DecodeImage(ReadFixture(name), options, name);
}

bool FixtureExists(const std::string& name) { return std::filesystem::exists(kFolder + name); }

std::vector<std::string> DecodeFixtures() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder + "decode")) {
    const std::string name = entry.path().filename();
    if (!EndsWith(name, ".white.png") && !EndsWith(name, ".drop.png")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  OT_CHECK(names.size() > 30, "{} fixtures", names.size());
  return names;
}

Image HashImage(int height, int width) {
  Image image{height, width, std::vector<uint8_t>(size_t(height) * width * 3)};
  for (size_t i = 0; i < image.rgb.size(); ++i) {
    image.rgb[i] = static_cast<uint8_t>(static_cast<uint32_t>(i) * 2654435761u >> 13);
  }
  return image;
}

}  // namespace omnitrain
