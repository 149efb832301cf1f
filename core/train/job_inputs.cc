#include "core/train/job_inputs.h"

#include <array>
#include <filesystem>

#include "core/base/json.h"

namespace omnitrain {
namespace {

namespace fs = std::filesystem;

std::string TokenizerPath(const JobSpec& spec) {
  const bool given = !spec.data.tokenizer.empty();
  fs::path path = given ? spec.data.tokenizer : spec.model.hf;
  if (fs::is_directory(path)) path /= "tokenizer.json";
  OT_REQUIRE(fs::exists(path), ErrorCode::kSpec, "{}: {} does not exist",
             given ? "data.tokenizer" : "model.hf", path.string());
  return path.string();
}

// Ids that the model's configuration leaves open are those of the tokenizer.
void TakeTokenIds(const Tokenizer& tokenizer, const std::string& path, ModelConfig* model) {
  const std::array<std::pair<int64_t*, const char*>, 4> ids = {
      {{&model->image_token_id, "<|image_pad|>"},
       {&model->video_token_id, "<|video_pad|>"},
       {&model->vision_start_token_id, "<|vision_start|>"},
       {&model->vision_end_token_id, "<|vision_end|>"}}};
  for (const auto& [id, token] : ids) {
    if (*id >= 0) continue;
    const auto found = tokenizer.TokenId(token);
    OT_REQUIRE(found.has_value(), ErrorCode::kSpec, "data.tokenizer: {} has no token {}", path,
               token);
    *id = *found;
  }
  SetVocabulary(tokenizer.vocab_size(), model);
}

ImageProcessorConfig ImageSettings(const JobSpec& spec, const ModelConfig& model) {
  const VisionConfig& vision = model.vision;
  ImageProcessorConfig image;
  const fs::path file = fs::path(spec.model.hf) / "preprocessor_config.json";
  if (!spec.model.hf.empty() && fs::exists(file)) {
    image = LoadImageProcessorConfig(file.string());
  } else {
    image.patch_size = vision.patch_size;
    image.temporal_patch_size = vision.temporal_patch_size;
    image.merge_size = vision.merge_size;
    if (IsQwen3(model.family)) {
      // Source: preprocessor_config.json of the Qwen3-VL releases.
      image.mean = image.std = {0.5f, 0.5f, 0.5f};
      image.min_pixels = 65536;
      image.max_pixels = 16777216;
    }
  }
  if (spec.data.image.min_pixels) image.min_pixels = *spec.data.image.min_pixels;
  if (spec.data.image.max_pixels) image.max_pixels = *spec.data.image.max_pixels;
  OT_REQUIRE(
      image.patch_size == vision.patch_size && image.merge_size == vision.merge_size &&
          image.temporal_patch_size == vision.temporal_patch_size,
      ErrorCode::kSpec,
      "{}: patches of {} pixels x {} frames, merged {} by {}; the model's vision tower has {} x "
      "{}, merged {} by {}",
      file.string(), image.patch_size, image.temporal_patch_size, image.merge_size,
      image.merge_size, vision.patch_size, vision.temporal_patch_size, vision.merge_size,
      vision.merge_size);
  OT_REQUIRE(image.min_pixels <= image.max_pixels, ErrorCode::kSpec,
             "data.image: min_pixels {} is above max_pixels {}", image.min_pixels,
             image.max_pixels);
  return image;
}

SourceKind KindOf(SourceFormat format) {
  switch (format) {
    case SourceFormat::kWebDataset:
      return SourceKind::kWebDataset;
    case SourceFormat::kMessages:
      return SourceKind::kMessages;
    case SourceFormat::kAuto:
      return SourceKind::kAuto;
  }
  return SourceKind::kAuto;
}

}  // namespace

ModelConfig OpenModelConfig(const JobSpec& spec) {
  return spec.model.hf.empty() ? ModelConfigFromArch(spec.model.arch)
                               : LoadModelConfig(spec.model.hf);
}

JobInputs OpenInputs(const JobSpec& spec) {
  JobInputs inputs;
  inputs.model = OpenModelConfig(spec);
  inputs.tokenizer_path = TokenizerPath(spec);
  const Tokenizer tokenizer = Tokenizer::Load(inputs.tokenizer_path);
  TakeTokenIds(tokenizer, inputs.tokenizer_path, &inputs.model);
  inputs.image = ImageSettings(spec, inputs.model);

  EncodeOptions encode;
  encode.seed = spec.run.seed;
  encode.chat_template = ChatTemplate::ForModelType(FamilyName(inputs.model.family));
  encode.image = inputs.image;
  encode.decode.alpha = spec.data.alpha == AlphaMode::kWhite ? DecodeOptions::AlphaMode::kWhite
                                                             : DecodeOptions::AlphaMode::kDrop;
  encode.decode.max_pixels = spec.data.max_image_pixels;
  PositionOptions& positions = encode.positions;
  positions.rule = IsQwen3(inputs.model.family) ? PositionRule::kQwen3Vl : PositionRule::kQwen;
  positions.merge_size = inputs.model.vision.merge_size;
  positions.image_token_id = static_cast<int32_t>(inputs.model.image_token_id);
  positions.video_token_id = static_cast<int32_t>(inputs.model.video_token_id);
  positions.tokens_per_second = inputs.model.vision.tokens_per_second;
  inputs.encoder = std::make_shared<SampleEncoder>(encode, tokenizer);
  inputs.pack.positions = positions;
  inputs.pack.patch_dim = inputs.model.vision.patch_dim();
  inputs.pack.window_cells = inputs.model.vision.window_cells();

  for (const DataSource& source : spec.data.sources) {
    LoaderSource opened;
    opened.source = OpenSource(source.path, KindOf(source.format));
    opened.weight = source.weight;
    opened.prompts = source.prompts;
    inputs.sources.push_back(std::move(opened));
  }
  return inputs;
}

LoaderOptions JobInputs::LoaderFor(const JobSpec& spec, int64_t first_index, int dp_rank,
                                   int dp_size) const {
  LoaderOptions options;
  options.seed = spec.run.seed;
  options.order = spec.data.shuffle ? Mixture::Order::kShuffled : Mixture::Order::kSequential;
  options.first_index = first_index;
  options.dp_rank = dp_rank;
  options.dp_size = dp_size;
  options.samples_per_step = spec.batch.samples;
  options.micro_batch_tokens = spec.batch.micro_batch_tokens;
  options.pack = pack;
  options.too_long =
      spec.data.too_long == TooLong::kTruncate ? TooLongPolicy::kTruncate : TooLongPolicy::kSkip;
  options.max_bad_fraction = spec.data.max_bad_fraction;
  options.workers = spec.data.workers;
  options.prefetch_steps = spec.data.prefetch_steps;
  return options;
}

void WriteModelSideFiles(const JobSpec& spec, const JobInputs& inputs, const std::string& dir) {
  fs::create_directories(dir);
  const auto write = [&](const char* name, const std::string& text) {
    WriteFileAtomically((fs::path(dir) / name).string(), text, ErrorCode::kCheckpoint);
  };
  // Unchanged copies of everything that describes the model: a save without them cannot be loaded.
  const fs::path tokenizer_dir = fs::path(inputs.tokenizer_path).parent_path();
  for (const fs::path& from : {fs::path(spec.model.hf), tokenizer_dir}) {
    if (from.empty()) continue;
    for (const char* name :
         {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
          "preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json",
          "chat_template.jinja"}) {
      if (fs::exists(from / name)) write(name, ReadFile((from / name).string(), ErrorCode::kSpec));
    }
  }
  if (spec.model.hf.empty()) write("config.json", ToHfConfig(inputs.model).dump(2) + "\n");
  if (!fs::exists(fs::path(dir) / "preprocessor_config.json")) {
    const ImageProcessorConfig& image = inputs.image;
    write("preprocessor_config.json",
          Json{
              {"image_processor_type", "Qwen2VLImageProcessor"},
              {"size", {{"shortest_edge", image.min_pixels}, {"longest_edge", image.max_pixels}}},
              {"patch_size", image.patch_size},
              {"temporal_patch_size", image.temporal_patch_size},
              {"merge_size", image.merge_size},
              {"image_mean", image.mean},
              {"image_std", image.std},
              {"do_convert_rgb", true},
              {"do_resize", image.do_resize},
              {"do_rescale", image.do_rescale},
              {"rescale_factor", image.rescale_factor},
              {"do_normalize", image.do_normalize},
              {"resample",
               3}}.dump(2) +
              "\n");
  }
}

}  // namespace omnitrain
