#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace omnitrain {

/// A piece of a message: text, or the place of an item.
struct ContentPart {
  enum class Kind { kText, kImage, kVideo };
  Kind kind = Kind::kText;
  std::string text;  // of kText
  int item = -1;     // of the others: index in the sample's items
};

struct Message {
  std::string role;  // system, user or assistant
  std::vector<ContentPart> parts;
  std::optional<bool> loss;  // whether it is to be learned; unset: assistant messages are
};

/// What an item takes in the LLM's sequence.
struct ItemTokens {
  int64_t num_tokens = 0;       // rows that the encoder delivers (t*h*w / merge^2), over all frames
  std::vector<double> times_s;  // videos with frame times: of each temporal patch, the mean of its
                                // first and last frame
};

/// The rules in which the ChatML families differ.
struct ChatTemplate {
  std::optional<std::string>
      default_system;        // said where the first message is not a system message
  bool frame_times = false;  // a video is a run "<1.5 seconds>" + vision tokens for each frame pair

  /// Of a `model_type` in config.json: qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe. Errors: kSpec
  /// for another.
  static ChatTemplate ForModelType(const std::string& model_type);
};

/// The tokens [begin, end) of one item that its encoder rows replace, in order.
struct TokenRun {
  int item;
  int64_t begin;
  int64_t end;
};

struct EncodedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> loss_mask;  // 1: this token is to be predicted
  std::vector<TokenRun>
      runs;  // in order; one an item, but one a frame pair for videos with frame times
};

/// The tokens of a conversation: `<|im_start|>ROLE\n` content `<|im_end|>\n` for each message; an
/// image is
/// `<|vision_start|>`, its `<|image_pad|>`s, `<|vision_end|>`, a video the same with
/// `<|video_pad|>`. They are those that Hugging Face gives for the whole rendered text. Loss:
/// content, `<|im_end|>` and the newline behind it of messages that are to be learned; never vision
/// tokens, and no token that begins in the header (a content that starts with a line break may
/// share a token with the header's own). Every item appears in exactly one place. Text that holds a
/// control token literally ("<|image_pad|>", "<|im_end|>") is refused: it must neither turn into an
/// image nor end the message. Qwen's grounding marks (<|object_ref_*|>, <|box_*|>, <|quad_*|>) and
/// tokens that are not special (<think>) are allowed. Errors: kData naming the message and the
/// token, number or item; callers add the sample.
EncodedChat EncodeChat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                       const std::vector<Message>& messages, const std::vector<ItemTokens>& items);

/// The same, followed by `<|im_start|>assistant\n`, for generation; nothing is to be learned.
EncodedChat EncodePrompt(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                         const std::vector<Message>& messages,
                         const std::vector<ItemTokens>& items);

/// Refuses a tokenizer that cannot serve ChatML, at start instead of at the first sample.
/// Errors: kData naming the control token that is missing, or that does not stand alone in a text.
void RequireChatTokenizer(const Tokenizer& tokenizer);

}  // namespace omnitrain
