#include "core/spec/suggest.h"

#include <algorithm>

namespace omnitrain {
namespace {

constexpr int kFar = 1000;

std::vector<std::string> Words(const std::string& name) {
  std::vector<std::string> words(1);
  for (char c : name) {
    if (c == '_') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

std::string Initials(const std::string& name) {
  std::string initials;
  for (const std::string& word : Words(name)) initials += word.substr(0, 1);
  return initials;
}

bool HasAllWords(const std::string& name, const std::string& some) {
  const std::vector<std::string> all = Words(name);
  const std::vector<std::string> few = Words(some);
  return std::all_of(few.begin(), few.end(), [&](const std::string& word) {
    return std::find(all.begin(), all.end(), word) != all.end();
  });
}

/// How far `candidate` is from what was meant by `word`; kFar if it is no guess at all.
int Distance(const std::string& word, const std::string& candidate) {
  const int edits = EditDistance(word, candidate);
  if (candidate.size() > 1 && Initials(word) == candidate) return std::min(edits, 1);
  if (HasAllWords(word, candidate) || HasAllWords(candidate, word)) return std::min(edits, 2);
  const int limit = std::min<int>(3, static_cast<int>(std::max(word.size(), size_t{2})) / 2);
  return edits <= limit ? edits : kFar;
}

std::string Leaf(const std::string& path) { return path.substr(path.rfind('.') + 1); }
std::string Group(const std::string& path) {
  const size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}

}  // namespace

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = static_cast<int>(i + j);
        continue;
      }
      const int change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::string Nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string nearest;
  int best = kFar;
  for (const std::string& candidate : candidates) {
    const int distance = Distance(word, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

std::string NearestKey(const std::string& path, const std::vector<std::string>& keys) {
  std::vector<std::string> siblings;
  for (const std::string& key : keys) {
    if (Group(key) == Group(path)) siblings.push_back(Leaf(key));
  }
  const std::string sibling = Nearest(Leaf(path), siblings);
  if (!sibling.empty()) return Group(path).empty() ? sibling : Group(path) + "." + sibling;

  std::string nearest;
  int best = 2;  // elsewhere in the spec only nearly equal names count
  for (const std::string& key : keys) {
    const int distance = Distance(Leaf(path), Leaf(key));
    if (distance < best) {
      best = distance;
      nearest = key;
    }
  }
  return nearest;
}

}  // namespace omnitrain
