#include <cmath>

#include "core/base/check.h"
#include "core/base/json.h"
#include "data/image/processor.h"

namespace omnitrain {
namespace {

// Classes of transformers (and their fast and PIL variants) that share one algorithm.
constexpr const char* kKnownTypes[] = {"Qwen2VLImageProcessor",        "Qwen2VLImageProcessorFast",
                                       "Qwen2VLImageProcessorPil",     "Qwen2_5_VLImageProcessor",
                                       "Qwen2_5_VLImageProcessorFast", "Qwen3VLImageProcessor",
                                       "Qwen3VLImageProcessorFast"};
constexpr int kBicubicResample = 3;  // PIL.Image.BICUBIC

/// Reads keys of one JSON object; absent and null leave the default.
class Reader {
 public:
  Reader(const Json& object, std::string_view name) : object_(object), name_(name) {}

  const Json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  void Flag(const char* key, bool* value) const {
    const Json* found = Find(key);
    if (found == nullptr) return;
    OT_REQUIRE(found->is_boolean(), ErrorCode::kSpec, "{}: {} is {}, expected true or false", name_,
               key, found->dump());
    *value = found->get<bool>();
  }

  template <typename T>
  void Positive(const char* key, int64_t limit, T* value) const {
    const Json* found = Find(key);
    if (found == nullptr) return;
    OT_REQUIRE(found->is_number_integer() && *found >= 1 && *found <= limit, ErrorCode::kSpec,
               "{}: {} is {}, expected an integer from 1 to {}", name_, key, found->dump(), limit);
    *value = found->get<T>();
  }

  void Real(const char* key, double* value) const {
    const Json* found = Find(key);
    if (found == nullptr) return;
    OT_REQUIRE(found->is_number(), ErrorCode::kSpec, "{}: {} is {}, expected a number", name_, key,
               found->dump());
    *value = found->get<double>();
  }

  void Channels(const char* key, std::array<float, 3>* value) const {
    const Json* found = Find(key);
    if (found == nullptr) return;
    bool is_valid = found->is_array() && found->size() == 3;
    for (size_t i = 0; is_valid && i < 3; ++i) is_valid = (*found)[i].is_number();
    OT_REQUIRE(is_valid, ErrorCode::kSpec, "{}: {} is {}, expected three numbers", name_, key,
               found->dump());
    for (size_t i = 0; i < 3; ++i) (*value)[i] = (*found)[i].get<float>();
  }

 private:
  const Json& object_;
  std::string_view name_;
};

void RequireKnownType(const Reader& reader, std::string_view name) {
  const Json* type = reader.Find("image_processor_type");
  std::string known;
  for (const char* candidate : kKnownTypes) {
    if (type != nullptr && *type == candidate) return;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", candidate);
  }
  Fail(ErrorCode::kSpec, "{}: image_processor_type is {}; known are {}", name,
       type ? type->dump() : "missing", known);
}

}  // namespace

ImageProcessorConfig ParseImageProcessorConfig(std::string_view json, std::string_view name) {
  Json object;
  try {
    object = Json::parse(json);
  } catch (const Json::exception& e) {
    Fail(ErrorCode::kSpec, "{}: not valid JSON: {}", name, e.what());
  }
  OT_REQUIRE(object.is_object(), ErrorCode::kSpec, "{}: expected a JSON object", name);
  const Reader reader(object, name);
  RequireKnownType(reader, name);

  ImageProcessorConfig config;
  reader.Positive("patch_size", 1024, &config.patch_size);
  reader.Positive("temporal_patch_size", 64, &config.temporal_patch_size);
  reader.Positive("merge_size", 64, &config.merge_size);

  // An image has to stay addressable by int sides, whatever the file asks for.
  constexpr int64_t kMostPixels = int64_t{1} << 32;
  if (const Json* size = reader.Find("size")) {
    OT_REQUIRE(size->is_object(), ErrorCode::kSpec,
               "{}: size is {}, expected shortest_edge and longest_edge", name, size->dump());
    const Reader sizes(*size, name);
    for (const auto& [edge, pixels] :
         {std::pair("shortest_edge", "min_pixels"), {"longest_edge", "max_pixels"}}) {
      OT_REQUIRE(sizes.Find(edge) || reader.Find(pixels), ErrorCode::kSpec,
                 "{}: size has no {}, and there is no {} in its place", name, edge, pixels);
    }
    sizes.Positive("shortest_edge", kMostPixels, &config.min_pixels);
    sizes.Positive("longest_edge", kMostPixels, &config.max_pixels);
  }
  reader.Positive("min_pixels", kMostPixels, &config.min_pixels);
  reader.Positive("max_pixels", kMostPixels, &config.max_pixels);
  OT_REQUIRE(config.min_pixels <= config.max_pixels, ErrorCode::kSpec,
             "{}: min_pixels {} is above max_pixels {}", name, config.min_pixels,
             config.max_pixels);

  reader.Flag("do_resize", &config.do_resize);
  reader.Flag("do_rescale", &config.do_rescale);
  reader.Flag("do_normalize", &config.do_normalize);
  reader.Real("rescale_factor", &config.rescale_factor);
  reader.Channels("image_mean", &config.mean);
  reader.Channels("image_std", &config.std);
  for (const float std : config.std) {
    OT_REQUIRE(std::isfinite(std) && std > 0.0f, ErrorCode::kSpec,
               "{}: image_std has {}, expected values above 0", name, std);
  }

  bool do_convert_rgb = true;
  reader.Flag("do_convert_rgb", &do_convert_rgb);
  OT_REQUIRE(do_convert_rgb, ErrorCode::kSpec,
             "{}: do_convert_rgb is false; images are always converted to RGB here", name);
  int64_t resample = kBicubicResample;
  if (const Json* found = reader.Find("resample"))
    resample = found->is_number_integer() ? found->get<int64_t>() : -1;
  OT_REQUIRE(resample == kBicubicResample, ErrorCode::kSpec,
             "{}: resample is {}, only 3 (bicubic) is implemented", name,
             reader.Find("resample")->dump());
  return config;
}

ImageProcessorConfig LoadImageProcessorConfig(const std::string& path) {
  return ParseImageProcessorConfig(ReadFile(path, ErrorCode::kSpec), path);
}

}  // namespace omnitrain
