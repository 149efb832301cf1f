#include "data/source/tar.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>

#include "core/base/check.h"

namespace omnitrain {
namespace {

constexpr int64_t kBlock = 512;
constexpr int64_t kMaxExtensionBytes = 1 << 20;  // of a long name or a pax header

// Headers lie between the bytes of files; one read gets this much, so that shards of small files
// need few reads.
constexpr int64_t kWindowBytes = 64 << 10;

class HeaderReader {
 public:
  explicit HeaderReader(const RandomAccessFile& file) : file_(file) {}

  const char* Block(int64_t offset) {
    if (offset < begin_ || offset + kBlock > begin_ + static_cast<int64_t>(window_.size())) {
      window_ = file_.Read(offset, std::min(kWindowBytes, file_.size() - offset));
      begin_ = offset;
    }
    return window_.data() + (offset - begin_);
  }

 private:
  const RandomAccessFile& file_;
  std::string window_;
  int64_t begin_ = 0;
};

std::string_view Field(const char* at, size_t size) { return {at, ::strnlen(at, size)}; }

bool IsZero(const char* block) {
  return std::all_of(block, block + kBlock, [](char c) { return c == 0; });
}

// A number field: octal digits with blanks around, or base 256 when the first bit is set.
bool ParseNumber(const char* at, int size, int64_t* value) {
  uint64_t v = 0;
  const auto* bytes = reinterpret_cast<const unsigned char*>(at);
  if (bytes[0] & 0x80) {
    if (bytes[0] != 0x80) return false;  // negative, or beyond any file
    for (int i = 1; i < size; ++i) {
      if (v >> 55) return false;
      v = v << 8 | bytes[i];
    }
  } else {
    int i = 0;
    while (i < size && at[i] == ' ') ++i;
    for (; i < size && at[i] >= '0' && at[i] <= '7'; ++i) {
      if (v >> 60) return false;
      v = v << 3 | static_cast<uint64_t>(at[i] - '0');
    }
    for (; i < size; ++i) {
      if (at[i] != ' ' && at[i] != 0) return false;
    }
  }
  *value = static_cast<int64_t>(v);
  return true;
}

bool ChecksumMatches(const char* block) {
  int64_t expected = 0;
  if (!ParseNumber(block + 148, 8, &expected)) return false;
  int64_t as_unsigned = 0, as_signed = 0;  // old tars summed signed bytes
  for (int i = 0; i < kBlock; ++i) {
    const char c = i >= 148 && i < 156 ? ' ' : block[i];
    as_unsigned += static_cast<unsigned char>(c);
    as_signed += static_cast<signed char>(c);
  }
  return expected == as_unsigned || expected == as_signed;
}

struct Overrides {
  std::string path;
  int64_t size = -1;
};

// Records `LENGTH KEY=VALUE\n`, LENGTH counting the whole record.
bool ParsePax(std::string_view text, Overrides* out) {
  while (!text.empty() && text[0] != '\0') {
    size_t length = 0, at = 0;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9' && length < text.size(); ++at) {
      length = length * 10 + static_cast<size_t>(text[at] - '0');
    }
    if (at == 0 || at >= text.size() || text[at] != ' ' || length > text.size() ||
        length < at + 3 || text[length - 1] != '\n') {
      return false;
    }
    const std::string_view record = text.substr(at + 1, length - at - 2);
    const size_t equals = record.find('=');
    if (equals == std::string_view::npos) return false;
    const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
    if (key == "path") out->path = std::string(value);
    if (key == "size") {
      if (value.empty() || value.size() > 18) return false;
      int64_t size = 0;
      for (const char c : value) {
        if (c < '0' || c > '9') return false;
        size = size * 10 + (c - '0');
      }
      out->size = size;
    }
    text.remove_prefix(length);
  }
  return true;
}

void RefuseCompressed(const RandomAccessFile& file) {
  if (file.size() < 4) return;
  const std::string magic = file.Read(0, 4);
  const bool is_gzip = magic.compare(0, 2, "\x1f\x8b") == 0;
  const bool is_zstd = magic == "\x28\xb5\x2f\xfd";
  OT_REQUIRE(!is_gzip && !is_zstd, ErrorCode::kData,
             "{}: compressed with {}, which has no random access: unpack it to a plain tar",
             file.path(), is_gzip ? "gzip" : "zstd");
}

}  // namespace

std::vector<TarEntry> ReadTarIndex(const RandomAccessFile& file) {
  RefuseCompressed(file);
  HeaderReader reader(file);
  std::vector<TarEntry> entries;
  Overrides next;      // of the entry that follows
  Overrides defaults;  // of all that follow (pax 'g')
  int64_t offset = 0;
  while (true) {
    OT_REQUIRE(offset + kBlock <= file.size(), ErrorCode::kData,
               "{}: truncated tar: ends at byte {} without an end-of-archive block", file.path(),
               file.size());
    const char* block = reader.Block(offset);
    if (IsZero(block)) return entries;
    OT_REQUIRE(ChecksumMatches(block), ErrorCode::kData,
               "{}: not a tar, or damaged: wrong header checksum at byte {}", file.path(), offset);
    int64_t size = 0;
    OT_REQUIRE(ParseNumber(block + 124, 12, &size), ErrorCode::kData,
               "{}: damaged tar: bad size in the header at byte {}", file.path(), offset);
    const char type = block[156];
    const bool is_file = type == '0' || type == '\0' || type == '7';
    if (is_file && next.size < 0) next.size = defaults.size;
    if (is_file && next.size >= 0) size = next.size;
    // Links carry the size of their target in some writers, but no bytes.
    const bool has_bytes = !(type >= '1' && type <= '6');
    const int64_t data = offset + kBlock;
    const int64_t stored = has_bytes ? (size + kBlock - 1) / kBlock * kBlock : 0;
    OT_REQUIRE(!has_bytes || size <= file.size() - data, ErrorCode::kData,
               "{}: truncated tar: the entry at byte {} has {} bytes, {} are left", file.path(),
               offset, size, file.size() - data);
    OT_REQUIRE(type != 'S', ErrorCode::kData,
               "{}: sparse file at byte {}: pack it without --sparse", file.path(), offset);
    if (type == 'L' || type == 'x' || type == 'g') {
      OT_REQUIRE(size <= kMaxExtensionBytes, ErrorCode::kData,
                 "{}: damaged tar: an extended header of {} bytes at byte {}", file.path(), size,
                 offset);
      const std::string text = file.Read(data, size);
      if (type == 'L') {
        next.path = std::string(Field(text.data(), text.size()));
      } else {
        OT_REQUIRE(ParsePax(text, type == 'x' ? &next : &defaults), ErrorCode::kData,
                   "{}: damaged tar: bad pax header at byte {}", file.path(), offset);
      }
    } else if (type != 'K') {
      if (is_file) {
        std::string path = next.path.empty() ? defaults.path : next.path;
        if (path.empty()) {
          // The old GNU format keeps times where POSIX has the prefix.
          const bool is_posix = std::memcmp(block + 257, "ustar\0", 6) == 0;
          const std::string_view prefix = is_posix ? Field(block + 345, 155) : std::string_view();
          path = std::string(prefix) + (prefix.empty() ? "" : "/") + std::string(Field(block, 100));
        }
        while (path.compare(0, 2, "./") == 0) path.erase(0, 2);
        if (!path.empty() && path.back() != '/') entries.push_back({std::move(path), data, size});
      }
      next = Overrides();
    }
    offset = data + stored;
  }
}

}  // namespace omnitrain
