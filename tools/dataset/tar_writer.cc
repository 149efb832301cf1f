#include "tools/dataset/tar_writer.h"

#include <fmt/format.h>

#include <cstring>

#include "core/base/check.h"

namespace omnitrain {
namespace {
constexpr size_t kBlock = 512;
}

void TarWriter::Add(std::string_view path, std::string_view bytes) {
  OT_CHECK(path.size() <= 100, "{} has {} bytes", path, path.size());
  char header[kBlock] = {};
  const auto put = [&](size_t at, std::string_view text) {
    std::memcpy(header + at, text.data(), text.size());
  };
  put(0, path);
  put(100, "0000644");
  put(108, "0000000");
  put(116, "0000000");
  put(124, fmt::format("{:011o}", bytes.size()));
  put(136, "00000000000");
  put(148, "        ");  // the checksum counts as blanks
  put(156, "0");
  put(257, std::string_view("ustar\00000", 8));
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  put(148, std::string_view(fmt::format("{:06o}", sum) + '\0' + ' '));
  out_.append(header, kBlock);
  out_.append(bytes);
  out_.resize((out_.size() + kBlock - 1) / kBlock * kBlock);
}

std::string TarWriter::Finish() {
  out_.append(2 * kBlock, '\0');
  std::string done = std::move(out_);
  out_.clear();
  return done;
}

}  // namespace omnitrain
