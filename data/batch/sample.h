#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/batch/batch.h"
#include "data/batch/positions.h"
#include "data/chat/chat_template.h"
#include "data/image/decode.h"
#include "data/image/processor.h"
#include "data/source/source.h"
#include "data/tokenizer/tokenizer.h"

namespace omnitrain {

/// How samples become rows: everything that the model's family fixes.
struct EncodeOptions {
  uint64_t seed = 0;  // picks the prompts of captions
  ChatTemplate chat_template;
  ImageProcessorConfig image;
  DecodeOptions decode;
  PositionOptions positions;  // token ids as in the model's config.json
};

struct EncodedItem {
  ItemShape shape;
  ItemBytes bytes;  // still encoded
};

/// A sample whose sizes are all known, and no pixel is decoded: what planning needs.
struct EncodedSample {
  int64_t index = -1;  // global index
  std::string key;
  std::vector<int32_t> ids;
  std::vector<uint8_t> loss_mask;  // [T] 1: this token is to be predicted (not shifted)
  std::vector<EncodedItem> items;
  std::vector<ItemRun> runs;

  int64_t num_rows() const { return static_cast<int64_t>(ids.size()); }
  int64_t num_vision_rows() const;
  int64_t num_patches() const;
  int64_t num_loss_tokens() const;  // rows that predict a token that is to be learned
  /// The row behind the last item's last one; 0 without items.
  int64_t items_end() const;
};

/// Encodes samples in two phases: sizes (tokens, image headers), then pixels, by the owner only.
/// Thread safe: all threads may share one.
class SampleEncoder {
 public:
  /// Errors: kSpec when the tokenizer's image or video placeholder has another id than the model's;
  /// kData for a tokenizer that cannot serve the chat template.
  SampleEncoder(EncodeOptions options, Tokenizer tokenizer);

  const EncodeOptions& options() const { return options_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  /// Phase one. A caption's prompt is drawn from `prompts` (none if empty) by (seed, global index).
  /// Reads the leading bytes of images. Errors: kData naming the sample and what is wrong.
  EncodedSample Encode(const RawSample& raw, int64_t global_index,
                       const std::vector<std::string>& prompts) const;

  /// Phase one for generation: the conversation up to its last assistant message, and the header of
  /// the answer. Nothing is to be learned. `answer` gets the text of that message.
  EncodedSample EncodeQuestion(const RawSample& raw, int64_t global_index,
                               const std::vector<std::string>& prompts, std::string* answer) const;

  /// Phase two: decodes and cuts the items, one after the other.
  /// Shapes: out [num_patches, patch_dim]. Errors: kData naming the image.
  void DecodePixels(const EncodedSample& sample, float* out) const;

 private:
  EncodedSample EncodeMessages(const RawSample& raw, const std::vector<Message>& messages,
                               int64_t global_index, bool is_question) const;
  std::vector<Message> WithPrompt(const RawSample& raw, int64_t global_index,
                                  const std::vector<std::string>& prompts) const;

  EncodeOptions options_;
  Tokenizer tokenizer_;
};

}  // namespace omnitrain
