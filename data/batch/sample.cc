#include "data/batch/sample.h"

#include <utility>

#include "core/base/check.h"
#include "core/base/rng.h"

namespace omnitrain {
namespace {

// Enough for the header of all but JPEGs with large metadata.
constexpr int64_t kHeaderBytes = 64 << 10;

ImageHeader HeaderOf(const ItemBytes& item) {
  const std::string head = item.Read(kHeaderBytes);
  if (static_cast<int64_t>(head.size()) == item.size()) return ReadImageHeader(head, item.name());
  try {
    return ReadImageHeader(head, item.name());
  } catch (const Error&) {
    return ReadImageHeader(item.Read(), item.name());
  }
}

void RequirePlaceholder(const Tokenizer& tokenizer, const char* token, int32_t id,
                        const char* key) {
  const auto found = tokenizer.TokenId(token);
  if (!found) return;  // RequireChatTokenizer knows which ones a template cannot do without
  OT_REQUIRE(
      *found == id, ErrorCode::kSpec,
      "data.tokenizer: {} has id {}, but the model's {} is {}: take the model's own tokenizer",
      token, *found, key, id);
}

}  // namespace

int64_t EncodedSample::num_vision_rows() const {
  int64_t rows = 0;
  for (const ItemRun& run : runs) rows += run.num_rows();
  return rows;
}

int64_t EncodedSample::num_patches() const {
  int64_t patches = 0;
  for (const EncodedItem& item : items) patches += item.shape.grid.num_patches();
  return patches;
}

int64_t EncodedSample::num_loss_tokens() const {
  int64_t count = 0;
  for (size_t row = 1; row < loss_mask.size(); ++row) count += loss_mask[row] ? 1 : 0;
  return count;
}

int64_t EncodedSample::items_end() const {
  return runs.empty() ? 0 : int64_t{runs.back().first_row} + runs.back().num_rows();
}

SampleEncoder::SampleEncoder(EncodeOptions options, Tokenizer tokenizer)
    : options_(std::move(options)), tokenizer_(std::move(tokenizer)) {
  RequireChatTokenizer(tokenizer_);
  RequirePlaceholder(tokenizer_, "<|image_pad|>", options_.positions.image_token_id,
                     "image_token_id");
  RequirePlaceholder(tokenizer_, "<|video_pad|>", options_.positions.video_token_id,
                     "video_token_id");
  OT_CHECK(options_.positions.merge_size == options_.image.merge_size,
           "positions merge by {}, images by {}", options_.positions.merge_size,
           options_.image.merge_size);
}

std::vector<Message> SampleEncoder::WithPrompt(const RawSample& raw, int64_t global_index,
                                               const std::vector<std::string>& prompts) const {
  std::vector<Message> messages = raw.messages;
  if (raw.takes_prompt && !prompts.empty()) {
    static const uint64_t kPrompt = StreamId("data.prompt");
    const uint64_t pick =
        RandomBits(options_.seed, kPrompt, static_cast<uint64_t>(global_index)) % prompts.size();
    messages.front().parts.push_back({ContentPart::Kind::kText, prompts[pick], -1});
  }
  return messages;
}

EncodedSample SampleEncoder::Encode(const RawSample& raw, int64_t global_index,
                                    const std::vector<std::string>& prompts) const {
  return EncodeMessages(raw, WithPrompt(raw, global_index, prompts), global_index, false);
}

EncodedSample SampleEncoder::EncodeQuestion(const RawSample& raw, int64_t global_index,
                                            const std::vector<std::string>& prompts,
                                            std::string* answer) const {
  std::vector<Message> messages = WithPrompt(raw, global_index, prompts);
  while (!messages.empty() && messages.back().role != "assistant") messages.pop_back();
  OT_REQUIRE(!messages.empty(), ErrorCode::kData, "{}: no assistant message to ask for", raw.key);
  answer->clear();
  for (const ContentPart& part : messages.back().parts) *answer += part.text;
  messages.pop_back();
  return EncodeMessages(raw, messages, global_index, true);
}

EncodedSample SampleEncoder::EncodeMessages(const RawSample& raw,
                                            const std::vector<Message>& messages,
                                            int64_t global_index, bool is_question) const {
  EncodedSample sample;
  sample.index = global_index;
  sample.key = raw.key;
  std::vector<ItemTokens> tokens;
  std::vector<ItemShape> shapes;
  for (const ItemBytes& bytes : raw.items) {
    const ImageHeader header = HeaderOf(bytes);
    const int64_t pixels = int64_t{header.height} * header.width;
    OT_REQUIRE(pixels <= options_.decode.max_pixels, ErrorCode::kData,
               "{}: {} x {} pixels are more than data.max_image_pixels = {}", bytes.name(),
               header.width, header.height, options_.decode.max_pixels);
    PatchGrid grid;
    try {
      grid = GridOf(header.height, header.width, options_.image);
    } catch (const Error& e) {
      Fail(e.code(), "{}: {}", bytes.name(), e.what());
    }
    tokens.push_back({grid.num_tokens(options_.image.merge_size), {}});
    shapes.push_back({ItemKind::kImage, {grid.t, grid.h, grid.w}, 1.0});
    sample.items.push_back({shapes.back(), bytes});
  }
  EncodedChat chat;
  try {
    chat = is_question ? EncodePrompt(tokenizer_, options_.chat_template, messages, tokens)
                       : EncodeChat(tokenizer_, options_.chat_template, messages, tokens);
  } catch (const Error& e) {
    Fail(e.code(), "{}: {}", raw.key, e.what());
  }
  sample.ids = std::move(chat.ids);
  sample.loss_mask = std::move(chat.loss_mask);
  sample.runs = FindItemRuns(sample.ids, shapes, options_.positions, raw.key);
  // Pixels are packed in the order of the items, rows are filled in the order of the text.
  for (size_t i = 1; i < sample.runs.size(); ++i) {
    OT_CHECK(sample.runs[i].item >= sample.runs[i - 1].item, "{}: item {} stands before item {}",
             raw.key, sample.runs[i - 1].item, sample.runs[i].item);
  }
  return sample;
}

void SampleEncoder::DecodePixels(const EncodedSample& sample, float* out) const {
  for (const EncodedItem& item : sample.items) {
    const Image image = DecodeImage(item.bytes.Read(), options_.decode, item.bytes.name());
    const PatchGrid grid = ProcessImage(image, options_.image, out);
    const ItemGrid& planned = item.shape.grid;
    OT_REQUIRE(grid.t == planned.t && grid.h == planned.h && grid.w == planned.w, ErrorCode::kData,
               "{}: the header promised {} x {} patches, the picture has {} x {}",
               item.bytes.name(), planned.h, planned.w, grid.h, grid.w);
    out += grid.num_patches() * options_.image.patch_dim();
  }
}

}  // namespace omnitrain
