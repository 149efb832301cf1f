#include "data/source/webdataset.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <exception>
#include <string_view>

#include "core/base/check.h"
#include "core/base/json.h"
#include "data/chat/messages.h"
#include "data/source/tar.h"

namespace omnitrain {
namespace {

// Above this many shards, each read opens its file anew.
constexpr size_t kMaxOpenShards = 256;

struct Member {
  int64_t offset, size;
  std::string field;  // lower case, without the leading dot: "png", "0.jpg", "json"
};

enum class Shape : uint8_t { kIncomplete, kCaption, kMessages };

struct Group {
  std::string key;
  std::vector<Member> members;
  Shape shape = Shape::kIncomplete;
};

struct Shard {
  std::shared_ptr<const RandomAccessFile> file;
  std::vector<Group> groups;
};

std::string_view Extension(std::string_view field) {
  return field.substr(field.rfind('.') == field.npos ? 0 : field.rfind('.') + 1);
}

bool IsImage(const Member& member) {
  static constexpr std::array<std::string_view, 4> kExtensions = {"png", "jpg", "jpeg", "webp"};
  const std::string_view extension = Extension(member.field);
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end();
}

// "0" of "0.png"; nothing of "png".
std::string_view ImageNumber(const Member& member) {
  const std::string_view field = member.field;
  return field.substr(0, field.size() - std::min(field.size(), Extension(field).size() + 1));
}

const Member* Find(const Group& group, std::string_view field) {
  for (const Member& m : group.members) {
    if (m.field == field) return &m;
  }
  return nullptr;
}

// The images of a sample: the plain one, then by number.
std::vector<const Member*> Images(const Group& group) {
  std::vector<const Member*> images;
  for (const Member& m : group.members) {
    if (IsImage(m)) images.push_back(&m);
  }
  std::stable_sort(images.begin(), images.end(), [](const Member* a, const Member* b) {
    const std::string_view x = ImageNumber(*a), y = ImageNumber(*b);
    return x.size() != y.size() ? x.size() < y.size() : x < y;
  });
  return images;
}

Shape ShapeOf(const Group& group) {
  const bool has_text = Find(group, "txt") != nullptr;
  if (has_text && Images(group).size() == 1) return Shape::kCaption;
  return !has_text && Find(group, "json") != nullptr ? Shape::kMessages : Shape::kIncomplete;
}

Shard ReadShard(const std::string& path, RandomAccessFile::Handle handle) {
  Shard shard;
  shard.file = std::make_shared<RandomAccessFile>(path, handle);
  for (const TarEntry& entry : ReadTarIndex(*shard.file)) {
    const size_t slash = entry.path.rfind('/');
    const size_t name = slash == std::string::npos ? 0 : slash + 1;
    const size_t dot = entry.path.find('.', name);
    // No extension, or a hidden file such as macOS's "._x".
    if (dot == std::string::npos || dot == name) continue;
    const std::string key = entry.path.substr(0, dot);
    std::string field = entry.path.substr(dot + 1);
    std::transform(field.begin(), field.end(), field.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (shard.groups.empty() || shard.groups.back().key != key) shard.groups.push_back({key, {}});
    shard.groups.back().members.push_back({entry.offset, entry.size, std::move(field)});
  }
  for (Group& group : shard.groups) group.shape = ShapeOf(group);
  return shard;
}

// Whether the JSON names its images itself, in a list or in parts of a content.
bool NamesImages(const Json& sample) {
  if (sample.contains("images") || sample.contains("image")) return true;
  if (!sample.contains("messages") || !sample["messages"].is_array()) return false;
  for (const Json& message : sample["messages"]) {
    if (!message.is_object() || !message.contains("content")) continue;
    for (const Json& part : message["content"]) {
      if (!part.is_object()) continue;
      for (const char* key : {"image", "image_url", "url", "path"}) {
        if (part.contains(key)) return true;
      }
    }
  }
  return false;
}

class WebDataset : public Source {
 public:
  WebDataset(std::string name, std::vector<Shard> shards)
      : name_(std::move(name)), shards_(std::move(shards)) {
    for (const Shard& shard : shards_) {
      ends_.push_back(size() + static_cast<int64_t>(shard.groups.size()));
    }
  }

  const std::string& name() const override { return name_; }
  int64_t size() const override { return ends_.empty() ? 0 : ends_.back(); }

  RawSample Read(int64_t index) const override {
    OT_CHECK(index >= 0 && index < size(), "sample {} of {}", index, size());
    const auto s =
        static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin());
    const Shard& shard = shards_[s];
    const int64_t begin = s == 0 ? 0 : ends_[s - 1];
    const Group& group = shard.groups[static_cast<size_t>(index - begin)];
    const std::string key = shard.file->path() + ":" + group.key;
    if (group.shape == Shape::kCaption) return ReadCaption(shard, group, key);
    if (group.shape == Shape::kMessages) return ReadMessages(shard, group, key);
    Fail(ErrorCode::kData,
         "{}: neither a caption (.txt and one image) nor a conversation (.json); it has {} images",
         key, Images(group).size());
  }

 private:
  static std::string ReadMember(const Shard& shard, const Member& member) {
    return shard.file->Read(member.offset, member.size);
  }

  static ItemBytes Item(const Shard& shard, const Group& group, const Member& member) {
    return ItemBytes::InFile(fmt::format("{}:{}.{}", shard.file->path(), group.key, member.field),
                             shard.file, member.offset, member.size);
  }

  static RawSample ReadCaption(const Shard& shard, const Group& group, const std::string& key) {
    std::string caption = ReadMember(shard, *Find(group, "txt"));
    const auto is_blank = [](char c) { return c == '\n' || c == '\r' || c == ' ' || c == '\t'; };
    while (!caption.empty() && is_blank(caption.back())) caption.pop_back();
    OT_REQUIRE(!caption.empty(), ErrorCode::kData, "{}: the caption is empty", key);
    RawSample sample;
    sample.key = key;
    sample.takes_prompt = true;
    sample.messages.resize(2);
    sample.messages[0].role = "user";
    sample.messages[0].parts = {{ContentPart::Kind::kImage, "", 0}};
    sample.messages[1].role = "assistant";
    sample.messages[1].parts = {{ContentPart::Kind::kText, std::move(caption), -1}};
    sample.items.push_back(Item(shard, group, *Images(group)[0]));
    return sample;
  }

  static RawSample ReadMessages(const Shard& shard, const Group& group, const std::string& key) {
    std::string text = ReadMember(shard, *Find(group, "json"));
    const auto images = Images(group);
    Json json = Json::parse(text, nullptr, false);
    if (json.is_object() && !images.empty() && !NamesImages(json)) {
      for (const Member* image : images) json["images"].push_back(image->field);
      text = json.dump();
    }
    ChatSample chat = ParseChatSample(text, key);
    RawSample sample;
    sample.key = key;
    sample.messages = std::move(chat.messages);
    const std::string prefix = group.key.substr(group.key.rfind('/') + 1) + ".";
    for (const ItemRef& item : chat.items) {
      OT_REQUIRE(item.kind == ContentPart::Kind::kImage && item.sources.size() == 1,
                 ErrorCode::kData, "{}: holds a video; only images are read", key);
      std::string field = item.sources[0];
      if (field.compare(0, prefix.size(), prefix) == 0) field.erase(0, prefix.size());
      const Member* member = Find(group, field);
      OT_REQUIRE(member != nullptr, ErrorCode::kData, "{}: the shard holds no {}.{}", key,
                 group.key, field);
      sample.items.push_back(Item(shard, group, *member));
    }
    return sample;
  }

  std::string name_;
  std::vector<Shard> shards_;
  std::vector<int64_t> ends_;  // samples up to and including each shard
};

}  // namespace

std::unique_ptr<Source> OpenWebDataset(const std::string& name,
                                       const std::vector<std::string>& paths) {
  const auto handle = paths.size() <= kMaxOpenShards ? RandomAccessFile::Handle::kKeepOpen
                                                     : RandomAccessFile::Handle::kOpenPerRead;
  std::vector<Shard> shards(paths.size());
  std::vector<std::exception_ptr> errors(paths.size());
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < paths.size(); ++i) {
    try {
      shards[i] = ReadShard(paths[i], handle);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  }
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  int64_t num_keys = 0;
  bool has_sample = false;
  for (const Shard& shard : shards) {
    num_keys += static_cast<int64_t>(shard.groups.size());
    for (const Group& group : shard.groups) has_sample |= group.shape != Shape::kIncomplete;
  }
  OT_REQUIRE(has_sample, ErrorCode::kData,
             "{}: no sample: of {} keys in {} shards none has .txt and one image, or .json", name,
             num_keys, paths.size());
  return std::make_unique<WebDataset>(name, std::move(shards));
}

}  // namespace omnitrain
