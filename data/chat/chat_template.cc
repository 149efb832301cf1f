#include "data/chat/chat_template.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/base/check.h"

namespace omnitrain {
namespace {

using Kind = ContentPart::Kind;

constexpr std::array<const char*, 6> kControlTokens = {"<|im_start|>",     "<|im_end|>",
                                                       "<|vision_start|>", "<|vision_end|>",
                                                       "<|image_pad|>",    "<|video_pad|>"};
constexpr std::array<std::string_view, 6> kGroundingTokens = {
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>",          "<|quad_start|>",     "<|quad_end|>"};

template <typename List>
bool Contains(const List& list, std::string_view token) {
  return std::find(list.begin(), list.end(), token) != list.end();
}

int32_t ControlId(const Tokenizer& tokenizer, const char* token) {
  const std::optional<int32_t> id = tokenizer.TokenId(token);
  OT_REQUIRE(id.has_value(), ErrorCode::kData, "the tokenizer has no token {}, which ChatML needs",
             token);
  return *id;
}

// Writes the tokens of a conversation. Text is gathered until the next control token and encoded in
// one go, because tokens may join what comes from different parts; control tokens are borders of
// any tokenization.
class ChatWriter {
 public:
  ChatWriter(const Tokenizer& tokenizer, const ChatTemplate& rules,
             const std::vector<ItemTokens>& items)
      : tokenizer_(tokenizer), rules_(rules), items_(items), seen_(items.size(), false) {}

  void AddMessage(const Message& message, int index) {
    where_ = fmt::format("message {} ({})", index, message.role);
    OT_REQUIRE(message.role == "system" || message.role == "user" || message.role == "assistant",
               ErrorCode::kData, "{}: a role is system, user or assistant", where_);
    const bool learned = message.loss.value_or(message.role == "assistant");
    Control("<|im_start|>", false);
    text_ = message.role + "\n";
    header_bytes_ = text_.size();
    learned_ = learned;
    for (const ContentPart& part : message.parts) {
      if (part.kind == Kind::kText) {
        text_ += part.text;
      } else {
        AddItem(part);
      }
    }
    Control("<|im_end|>", learned);
    text_ = "\n";
    FlushText();
  }

  void AddGenerationPrompt() {
    Control("<|im_start|>", false);
    text_ = "assistant\n";
    learned_ = false;
    FlushText();
  }

  EncodedChat Finish() {
    for (size_t i = 0; i < seen_.size(); ++i) {
      OT_REQUIRE(seen_[i], ErrorCode::kData, "item {} of {} has no place in the messages", i,
                 seen_.size());
    }
    return std::move(out_);
  }

 private:
  void Push(int32_t id, bool learned) {
    out_.ids.push_back(id);
    out_.loss_mask.push_back(learned ? 1 : 0);
  }

  void Control(const char* token, bool learned) {
    FlushText();
    Push(ControlId(tokenizer_, token), learned);
  }

  void FlushText() {
    const std::vector<int32_t> ids = tokenizer_.Encode(text_);
    size_t begin = 0;  // in bytes of the normalized text, whose header is that of the text itself
    for (const int32_t id : ids) {
      const std::string_view token = tokenizer_.TokenText(id);
      OT_REQUIRE(!(tokenizer_.IsSpecial(id) || Contains(kControlTokens, token)) ||
                     Contains(kGroundingTokens, token),
                 ErrorCode::kData,
                 "{}: the text holds the control token {}: remove it, or give images as items",
                 where_, token);
      Push(id, learned_ && begin >= header_bytes_);
      begin += tokenizer_.TokenBytes(id).size();
    }
    text_.clear();
    header_bytes_ = 0;
  }

  void AddItem(const ContentPart& part) {
    OT_REQUIRE(part.item >= 0 && part.item < static_cast<int>(items_.size()), ErrorCode::kData,
               "{}: item {} of {}", where_, part.item, items_.size());
    const auto idx = static_cast<size_t>(part.item);
    OT_REQUIRE(!seen_[idx], ErrorCode::kData, "{}: item {} is there twice", where_, part.item);
    seen_[idx] = true;
    const ItemTokens& item = items_[idx];
    OT_REQUIRE(item.num_tokens > 0, ErrorCode::kData, "{}: item {} has no tokens", where_,
               part.item);
    if (part.kind == Kind::kImage) return AddRun(part.item, "<|image_pad|>", item.num_tokens);
    if (!rules_.frame_times) return AddRun(part.item, "<|video_pad|>", item.num_tokens);
    const auto num_pairs = static_cast<int64_t>(item.times_s.size());
    OT_REQUIRE(num_pairs > 0 && item.num_tokens % num_pairs == 0, ErrorCode::kData,
               "{}: video {}: {} tokens do not split over {} frame times", where_, part.item,
               item.num_tokens, num_pairs);
    for (const double time : item.times_s) {
      text_ += fmt::format("<{:.1f} seconds>", time);
      AddRun(part.item, "<|video_pad|>", item.num_tokens / num_pairs);
    }
  }

  void AddRun(int item, const char* pad, int64_t num_tokens) {
    Control("<|vision_start|>", false);
    const auto begin = static_cast<int64_t>(out_.ids.size());
    out_.ids.insert(out_.ids.end(), static_cast<size_t>(num_tokens), ControlId(tokenizer_, pad));
    out_.loss_mask.insert(out_.loss_mask.end(), static_cast<size_t>(num_tokens), 0);
    out_.runs.push_back({item, begin, begin + num_tokens});
    Control("<|vision_end|>", false);
  }

  const Tokenizer& tokenizer_;
  const ChatTemplate& rules_;
  const std::vector<ItemTokens>& items_;
  std::vector<bool> seen_;
  std::string where_;
  std::string text_;         // not yet encoded
  size_t header_bytes_ = 0;  // at its beginning, never learned
  bool learned_ = false;
  EncodedChat out_;
};

EncodedChat Encode(const Tokenizer& tokenizer, const ChatTemplate& rules,
                   const std::vector<Message>& messages, const std::vector<ItemTokens>& items,
                   bool with_prompt) {
  ChatWriter writer(tokenizer, rules, items);
  if (rules.default_system && (messages.empty() || messages[0].role != "system")) {
    writer.AddMessage({"system", {{Kind::kText, *rules.default_system, -1}}, false}, -1);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    writer.AddMessage(messages[i], static_cast<int>(i));
  }
  if (with_prompt) writer.AddGenerationPrompt();
  return writer.Finish();
}

}  // namespace

ChatTemplate ChatTemplate::ForModelType(const std::string& model_type) {
  if (model_type == "qwen2_vl" || model_type == "qwen2_5_vl") {
    return {"You are a helpful assistant.", false};
  }
  if (model_type == "qwen3_vl" || model_type == "qwen3_vl_moe") return {std::nullopt, true};
  Fail(ErrorCode::kSpec,
       "no chat template for model_type '{}': qwen2_vl, qwen2_5_vl, qwen3_vl and qwen3_vl_moe have "
       "one",
       model_type);
}

EncodedChat EncodeChat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                       const std::vector<Message>& messages, const std::vector<ItemTokens>& items) {
  return Encode(tokenizer, chat_template, messages, items, false);
}

EncodedChat EncodePrompt(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                         const std::vector<Message>& messages,
                         const std::vector<ItemTokens>& items) {
  EncodedChat chat = Encode(tokenizer, chat_template, messages, items, true);
  std::fill(chat.loss_mask.begin(), chat.loss_mask.end(), uint8_t{0});
  return chat;
}

void RequireChatTokenizer(const Tokenizer& tokenizer) {
  const std::string before = "x \n", after = "\n x";
  for (const char* token : kControlTokens) {
    std::vector<int32_t> apart = tokenizer.Encode(before);
    apart.push_back(ControlId(tokenizer, token));
    for (const int32_t id : tokenizer.Encode(after)) apart.push_back(id);
    OT_REQUIRE(
        tokenizer.Encode(before + token + after) == apart, ErrorCode::kData,
        "the tokenizer's token {} takes in what stands around it (lstrip, rstrip or a prefix "
        "space), which ChatML does not allow",
        token);
  }
}

}  // namespace omnitrain
