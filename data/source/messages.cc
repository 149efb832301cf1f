#include "data/source/messages.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/base/check.h"
#include "data/chat/messages.h"

namespace omnitrain {
namespace {

constexpr int64_t kScanBytes = 4 << 20;

struct Line {
  int64_t offset, size;
  int64_t number;  // from 1
  int32_t file;
};

class LineScanner {
 public:
  LineScanner(int32_t file, std::vector<Line>* lines) : file_(file), lines_(lines) {}

  void Scan(const std::string& block, int64_t offset) {
    const char* const begin = block.data();
    const char* const end = begin + block.size();
    for (const char* at = begin; at < end;) {
      const char* newline =
          static_cast<const char*>(std::memchr(at, '\n', static_cast<size_t>(end - at)));
      const char* stop = newline ? newline : end;
      is_blank_ = is_blank_ &&
                  std::all_of(at, stop, [](char c) { return c == ' ' || c == '\t' || c == '\r'; });
      if (!newline) break;
      Finish(offset + (newline - begin));
      at = newline + 1;
    }
  }

  void Finish(int64_t end) {
    ++number_;
    if (!is_blank_) lines_->push_back({begin_, end - begin_, number_, file_});
    begin_ = end + 1;
    is_blank_ = true;
  }

 private:
  int32_t file_;
  std::vector<Line>* lines_;
  int64_t begin_ = 0;
  int64_t number_ = 0;
  bool is_blank_ = true;
};

class MessagesSource : public Source {
 public:
  MessagesSource(std::string name, const std::vector<std::string>& paths) : name_(std::move(name)) {
    for (const std::string& path : paths) {
      files_.push_back(
          std::make_unique<RandomAccessFile>(path, RandomAccessFile::Handle::kKeepOpen));
      const RandomAccessFile& file = *files_.back();
      LineScanner scanner(static_cast<int32_t>(files_.size()) - 1, &lines_);
      for (int64_t at = 0; at < file.size(); at += kScanBytes) {
        scanner.Scan(file.Read(at, std::min(kScanBytes, file.size() - at)), at);
      }
      scanner.Finish(file.size());  // a last line without a newline
    }
    OT_REQUIRE(!lines_.empty(), ErrorCode::kData, "{}: no sample: all lines are blank", name_);
  }

  const std::string& name() const override { return name_; }
  int64_t size() const override { return static_cast<int64_t>(lines_.size()); }

  RawSample Read(int64_t index) const override {
    OT_CHECK(index >= 0 && index < size(), "sample {} of {}", index, size());
    const Line& line = lines_[static_cast<size_t>(index)];
    const RandomAccessFile& file = *files_[static_cast<size_t>(line.file)];
    RawSample sample;
    sample.key = fmt::format("{}:{}", file.path(), line.number);
    ChatSample chat = ParseChatSample(file.Read(line.offset, line.size), sample.key);
    sample.messages = std::move(chat.messages);
    for (ItemRef& item : chat.items) {
      OT_REQUIRE(item.kind == ContentPart::Kind::kImage && item.sources.size() == 1,
                 ErrorCode::kData, "{}: holds a video; only images are read", sample.key);
      sample.items.push_back(Resolve(file.path(), sample.key, std::move(item.sources[0])));
    }
    return sample;
  }

 private:
  static ItemBytes Resolve(const std::string& jsonl, const std::string& key, std::string source) {
    const auto starts_with = [&](const char* prefix) { return source.rfind(prefix, 0) == 0; };
    if (starts_with("data:")) {
      const size_t comma = source.find(',');
      const bool is_base64 =
          comma != std::string::npos && comma >= 7 && source.compare(comma - 7, 7, ";base64") == 0;
      std::string bytes;
      OT_REQUIRE(
          is_base64 && DecodeBase64(source.data() + comma + 1, source.size() - comma - 1, &bytes),
          ErrorCode::kData, "{}: an image is not data:image/...;base64,...: \"{}\"", key,
          source.substr(0, 40));
      return ItemBytes::InMemory(key + ":data", std::move(bytes));
    }
    OT_REQUIRE(!starts_with("http://") && !starts_with("https://"), ErrorCode::kData,
               "{}: {}: images are not fetched: store it as a file", key, source);
    if (starts_with("file://")) source.erase(0, 7);
    const std::filesystem::path path = std::filesystem::path(jsonl).parent_path() / source;
    std::shared_ptr<const RandomAccessFile> file;
    try {
      file =
          std::make_shared<RandomAccessFile>(path.string(), RandomAccessFile::Handle::kOpenPerRead);
    } catch (const Error& e) {
      Fail(e.code(), "{}: {}", key, e.what());
    }
    const int64_t size = file->size();
    return ItemBytes::InFile(path.string(), std::move(file), 0, size);
  }

  std::string name_;
  std::vector<std::unique_ptr<RandomAccessFile>> files_;
  std::vector<Line> lines_;
};

int Base64Value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

}  // namespace

bool DecodeBase64(const char* text, size_t size, std::string* bytes) {
  bytes->clear();
  bytes->reserve(size / 4 * 3);
  uint32_t buffer = 0;
  int bits = 0, num_digits = 0, num_padding = 0;
  for (size_t i = 0; i < size; ++i) {
    const char c = text[i];
    if (c == ' ' || c == '\n' || c == '\r' || c == '\t') continue;
    if (c == '=') {
      ++num_padding;
      continue;
    }
    const int value = Base64Value(c);
    if (value < 0 || num_padding > 0) return false;
    ++num_digits;
    buffer = buffer << 6 | static_cast<uint32_t>(value);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes->push_back(static_cast<char>(buffer >> bits & 0xFF));
    }
  }
  return num_digits % 4 != 1 && (num_padding == 0 || (num_digits + num_padding) % 4 == 0);
}

std::unique_ptr<Source> OpenMessages(const std::string& name,
                                     const std::vector<std::string>& files) {
  return std::make_unique<MessagesSource>(name, files);
}

}  // namespace omnitrain
