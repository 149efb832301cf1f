#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace omnitrain {

/// Remembers the tokens of short words, for all threads that share a tokenizer. A slot is written
/// once and then only read, so that readers need neither a lock nor a reclamation scheme; a full
/// neighbourhood simply stays as it is. Memory: 4 MiB, touched as it fills.
class WordCache {
 public:
  WordCache();
  ~WordCache();
  WordCache(const WordCache&) = delete;
  WordCache& operator=(const WordCache&) = delete;

  static uint64_t Hash(std::string_view word);

  /// Appends the tokens of `word` to `ids` when it is remembered.
  bool Find(std::string_view word, uint64_t hash, std::vector<int32_t>* ids) const;

  /// Remembers `word`; does nothing when word or tokens are too long, or no slot is free.
  void Insert(std::string_view word, uint64_t hash, const int32_t* ids, size_t num_ids);

 private:
  struct Slot;
  void* memory_;
  Slot* slots_;  // in memory_, aligned
};

}  // namespace omnitrain
