#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/chat/chat_template.h"

namespace omnitrain {

/// Where the content of an item is to be found: a path, URL or data: string. A video may be a list
/// of frames.
struct ItemRef {
  ContentPart::Kind kind;
  std::vector<std::string> sources;
};

struct ChatSample {
  std::vector<Message> messages;
  std::vector<ItemRef> items;  // in the order of their places in the messages
};

/// One sample of conversation data. Read are
/// - {messages: [{role, content, loss?}], images?, videos?} with `<image>` and `<video>` tags in
/// the content, each of which
///   takes the next file (ms-swift);
/// - the same with content as a list of {type: text | image | image_url | video | video_url} parts
/// (OpenAI, qwen-vl-utils);
///   a part without a source takes the next file;
/// - {conversations: [{from: human | gpt | system, value}], image?, video?, system?} (LLaVA,
/// ShareGPT). Text keeps all that surrounds a tag, line breaks too. `where` names the sample in
/// messages (file:line). Errors: kData for broken JSON, counts of tags and files that differ (both
/// numbers are told), audio, and keys that would change the training and are not supported:
/// loss_scale, objects, tools, tool_calls, chat_template_kwargs.
ChatSample ParseChatSample(std::string_view json, const std::string& where);

}  // namespace omnitrain
