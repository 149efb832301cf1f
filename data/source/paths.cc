#include "data/source/paths.h"

#include <fmt/ranges.h>
#include <glob.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "core/base/check.h"

namespace omnitrain {
namespace {

constexpr long kMaxRange = 10'000'000;

bool IsNumber(const std::string& s) {
  return !s.empty() && s.size() <= 12 &&
         std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool EndsWith(const std::string& s, const std::string& suffix) {
  return s.size() >= suffix.size() &&
         s.compare(s.size() - suffix.size(), suffix.size(), suffix) == 0;
}

// What stands between a pair of braces, cut at the commas of this level; or a numeric range.
std::vector<std::string> Alternatives(const std::string& body, const std::string& pattern) {
  const size_t dots = body.find("..");
  if (dots != std::string::npos && IsNumber(body.substr(0, dots)) &&
      IsNumber(body.substr(dots + 2))) {
    const std::string first = body.substr(0, dots);
    const long begin = std::atol(first.c_str()), end = std::atol(body.c_str() + dots + 2);
    OT_REQUIRE(begin <= end && end - begin < kMaxRange, ErrorCode::kSpec,
               "{}: the range {{{}}} runs backwards or is too long", pattern, body);
    std::vector<std::string> out;
    for (long i = begin; i <= end; ++i) out.push_back(fmt::format("{:0{}}", i, first.size()));
    return out;
  }
  std::vector<std::string> out(1);
  int depth = 0;
  for (const char c : body) {
    depth += c == '{' ? 1 : c == '}' ? -1 : 0;
    if (c == ',' && depth == 0) {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

std::vector<std::string> FilesOfFolder(const std::string& folder,
                                       const std::vector<std::string>& suffixes) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const bool fits = std::any_of(suffixes.begin(), suffixes.end(),
                                  [&](const std::string& s) { return EndsWith(name, s); });
    if (fits && name[0] != '.' && !entry.is_directory()) files.push_back(entry.path().string());
  }
  OT_REQUIRE(!error, ErrorCode::kSpec, "{}: cannot list: {}", folder, error.message());
  OT_REQUIRE(!files.empty(), ErrorCode::kSpec, "{}: holds no file that ends in {}", folder,
             fmt::join(suffixes, " or "));
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> Glob(const std::string& pattern) {
  glob_t found = {};
  const int rc = ::glob(pattern.c_str(), 0, nullptr, &found);  // sorted by name
  std::vector<std::string> files(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  OT_REQUIRE(rc == 0 && !files.empty(), ErrorCode::kSpec, "{}: matches no file", pattern);
  return files;
}

}  // namespace

std::vector<std::string> ExpandBraces(const std::string& pattern) {
  const size_t open = pattern.find('{');
  if (open == std::string::npos) return {pattern};
  int depth = 0;
  size_t close = open;
  for (; close < pattern.size(); ++close) {
    depth += pattern[close] == '{' ? 1 : pattern[close] == '}' ? -1 : 0;
    if (depth == 0) break;
  }
  OT_REQUIRE(close < pattern.size(), ErrorCode::kSpec, "{}: a brace is not closed", pattern);
  std::vector<std::string> out;
  for (const auto& middle : Alternatives(pattern.substr(open + 1, close - open - 1), pattern)) {
    // The rest is expanded with the alternative in place, which may hold braces itself.
    for (auto& tail : ExpandBraces(middle + pattern.substr(close + 1))) {
      out.push_back(pattern.substr(0, open) + std::move(tail));
    }
  }
  return out;
}

std::vector<std::string> ExpandPaths(const std::string& path,
                                     const std::vector<std::string>& suffixes) {
  const auto exists = [](const std::string& p) {
    std::error_code error;
    return std::filesystem::exists(p, error);
  };
  std::vector<std::string> files;
  const auto patterns = exists(path) ? std::vector<std::string>{path} : ExpandBraces(path);
  for (const auto& pattern : patterns) {
    std::vector<std::string> found;
    std::error_code error;
    if (std::filesystem::is_directory(pattern, error)) {
      found = FilesOfFolder(pattern, suffixes);
    } else if (exists(pattern)) {
      found = {pattern};
    } else {
      OT_REQUIRE(pattern.find_first_of("*?[") != std::string::npos, ErrorCode::kSpec,
                 "{}: no such file or folder", pattern);
      found = Glob(pattern);
    }
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

}  // namespace omnitrain
