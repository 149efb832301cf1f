#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace omnitrain {

/// How often each distinct word occurs; words in the order of their first occurrence.
class WordCounts {
 public:
  WordCounts() : slots_(1024, 0) {}

  void Add(std::string_view word);

  size_t size() const { return words_.size(); }
  std::string_view word(size_t i) const {
    return std::string_view(bytes_).substr(words_[i].begin, words_[i].num_bytes);
  }
  int64_t count(size_t i) const { return words_[i].count; }

 private:
  struct Word {
    uint64_t hash;
    size_t begin;
    size_t num_bytes;
    int64_t count;
  };
  void Grow();

  std::string bytes_;
  std::vector<Word> words_;
  std::vector<uint32_t> slots_;  // open addressing: index in words_ + 1, 0 is free
};

}  // namespace omnitrain
