#include "data/chat/messages.h"

#include <array>
#include <optional>
#include <utility>

#include "core/base/check.h"
#include "core/base/json.h"

namespace omnitrain {
namespace {

using Kind = ContentPart::Kind;

class SampleReader {
 public:
  explicit SampleReader(const std::string& where) : where_(where) {}

  ChatSample Read(std::string_view json) {
    try {
      const Json root = Json::parse(json);
      OT_REQUIRE(root.is_object(), ErrorCode::kData, "{}: a sample is a JSON object", where_);
      for (const char* key : {"objects", "tools", "chat_template_kwargs", "audios", "audio"}) {
        RefuseKey(root, key);
      }
      images_ = Files(root, "images", "image");
      videos_ = Files(root, "videos", "video");
      if (root.contains("messages")) {
        for (const Json& entry : root.at("messages")) AddMessage(entry);
      } else if (root.contains("conversations")) {
        AddConversations(root);
      } else {
        Fail(ErrorCode::kData, "{}: neither messages nor conversations", where_);
      }
    } catch (const Json::exception& e) {
      Fail(ErrorCode::kData, "{}: {}", where_, e.what());
    }
    OT_REQUIRE(!sample_.messages.empty(), ErrorCode::kData, "{}: no messages", where_);
    RequireCount("<image>", images_);
    RequireCount("<video>", videos_);
    return std::move(sample_);
  }

 private:
  struct FileList {
    std::vector<std::vector<std::string>> files;
    size_t num_tags = 0;
  };

  void RefuseKey(const Json& object, const char* key) const {
    const auto it = object.find(key);
    OT_REQUIRE(it == object.end() || it->is_null() || (it->is_structured() && it->empty()),
               ErrorCode::kData, "{}: {} is not supported", where_, key);
  }

  // A string, a {path|url|...: string}, or for videos a list of frames.
  std::vector<std::string> Sources(const Json& value, bool frames_allowed) const {
    if (value.is_string()) return {value.get<std::string>()};
    if (value.is_object()) {
      for (const char* key : {"url", "path"}) {
        if (value.contains(key) && value.at(key).is_string()) return {value.at(key)};
      }
    }
    if (value.is_array() && frames_allowed && !value.empty()) {
      std::vector<std::string> frames;
      for (const Json& frame : value) frames.push_back(Sources(frame, false)[0]);
      return frames;
    }
    Fail(ErrorCode::kData, "{}: a file is given as {}: want a path or URL", where_,
         value.dump().substr(0, 80));
  }

  FileList Files(const Json& root, const char* plural, const char* singular) const {
    FileList list;
    for (const char* key : {plural, singular}) {
      const auto it = root.find(key);
      if (it == root.end() || it->is_null()) continue;
      const bool is_video = key[0] == 'v';
      if (!it->is_array()) {
        list.files.push_back(Sources(*it, is_video));
        continue;
      }
      for (const Json& file : *it) list.files.push_back(Sources(file, is_video));
    }
    return list;
  }

  void AddMessage(const Json& entry) {
    RefuseKey(entry, "loss_scale");
    RefuseKey(entry, "tool_calls");
    Message message;
    message.role = entry.at("role").get<std::string>();
    const auto loss = entry.find("loss");
    if (loss != entry.end() && !loss->is_null()) {
      message.loss = loss->is_number() ? loss->get<double>() != 0 : loss->get<bool>();
    }
    const Json& content = entry.at("content");
    if (content.is_array()) {
      for (const Json& part : content) AddPart(part, &message);
    } else {
      AddText(content.get<std::string>(), &message);
    }
    sample_.messages.push_back(std::move(message));
  }

  void AddPart(const Json& part, Message* message) {
    const std::string type = part.at("type").get<std::string>();
    if (type == "text") return AddText(part.at("text").get<std::string>(), message);
    const bool is_image = type == "image" || type == "image_url";
    OT_REQUIRE(is_image || type == "video" || type == "video_url", ErrorCode::kData,
               "{}: content of type '{}' is not supported", where_, type);
    const Kind kind = is_image ? Kind::kImage : Kind::kVideo;
    for (const char* key : {type.c_str(), "url", "path"}) {
      if (!part.contains(key)) continue;
      return AddItem(kind, Sources(part.at(key), !is_image), message);
    }
    TakeNext(kind, message);
  }

  void AddConversations(const Json& root) {
    const auto system = root.find("system");
    if (system != root.end() && system->is_string()) {
      Message message;
      message.role = "system";
      AddText(system->get<std::string>(), &message);
      sample_.messages.push_back(std::move(message));
    }
    for (const Json& entry : root.at("conversations")) {
      RefuseKey(entry, "loss_scale");
      const std::string from = entry.at("from").get<std::string>();
      Message message;
      message.role = from == "human" ? "user" : from == "gpt" ? "assistant" : from;
      if (entry.contains("loss")) message.loss = entry.at("loss").get<bool>();
      AddText(entry.at("value").get<std::string>(), &message);
      sample_.messages.push_back(std::move(message));
    }
  }

  void AddText(std::string_view text, Message* message) {
    static constexpr std::array<std::string_view, 3> kTags = {"<image>", "<video>", "<audio>"};
    while (!text.empty()) {
      size_t first = text.size(), tag = kTags.size();
      for (size_t i = 0; i < kTags.size(); ++i) {
        const size_t at = text.find(kTags[i]);
        if (at < first) first = at, tag = i;
      }
      if (first > 0) {
        message->parts.push_back({Kind::kText, std::string(text.substr(0, first)), -1});
      }
      if (tag == kTags.size()) return;
      OT_REQUIRE(kTags[tag] != "<audio>", ErrorCode::kData, "{}: <audio> is not supported", where_);
      TakeNext(tag == 0 ? Kind::kImage : Kind::kVideo, message);
      text.remove_prefix(first + kTags[tag].size());
    }
  }

  void TakeNext(Kind kind, Message* message) {
    FileList& list = kind == Kind::kImage ? images_ : videos_;
    // Tags without a file are counted on, so that the error tells how many there are.
    const size_t idx = list.num_tags++;
    if (idx < list.files.size()) AddItem(kind, std::move(list.files[idx]), message);
  }

  void AddItem(Kind kind, std::vector<std::string> sources, Message* message) {
    message->parts.push_back({kind, "", static_cast<int>(sample_.items.size())});
    sample_.items.push_back({kind, std::move(sources)});
  }

  void RequireCount(const char* tag, const FileList& list) const {
    OT_REQUIRE(list.num_tags == list.files.size(), ErrorCode::kData,
               "{}: {} {} tags in the messages and {} files for them", where_, list.num_tags, tag,
               list.files.size());
  }

  const std::string& where_;
  ChatSample sample_;
  FileList images_, videos_;
};

}  // namespace

ChatSample ParseChatSample(std::string_view json, const std::string& where) {
  return SampleReader(where).Read(json);
}

}  // namespace omnitrain
