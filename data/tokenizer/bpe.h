#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace omnitrain {

/// One merge: the adjacent tokens `left` and `right` become `merged`.
struct BpeMerge {
  int32_t left;
  int32_t right;
  int32_t merged;
};

/// Byte-pair encoding of one piece of text. Thread safe.
/// Source: Sennrich et al. 2016, algorithm 1, applied in rank order: the lowest-ranked adjacent
/// pair first, of equal pairs the leftmost.
class BpeModel {
 public:
  /// Token of every byte, -1 where the vocabulary has none.
  using ByteIds = std::array<int32_t, 256>;

  /// `merges` in rank order; of two merges of one pair the later counts, as in Hugging Face
  /// tokenizers.
  BpeModel(const ByteIds& byte_ids, const std::vector<BpeMerge>& merges);

  /// Appends the tokens of `word`. Cost: O(n^2) with a small constant to 48 bytes, O(n log n)
  /// above. Errors: kData for a byte without token.
  void Encode(std::string_view word, std::vector<int32_t>* ids) const;

 private:
  struct Entry {
    uint64_t pair = kNoPair;
    int32_t rank = 0;
    int32_t merged = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  const Entry* Find(int32_t left, int32_t right) const {
    const uint64_t pair =
        uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
    for (size_t slot = SlotOf(pair);; slot = (slot + 1) & mask_) {
      if (table_[slot].pair == pair) return &table_[slot];
      if (table_[slot].pair == kNoPair) return nullptr;
    }
  }
  size_t SlotOf(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15ull) >> shift_; }

  void EncodeShort(std::vector<int32_t>* ids, size_t first) const;
  void EncodeLong(std::vector<int32_t>* ids, size_t first) const;

  ByteIds byte_ids_;
  std::vector<Entry> table_;  // open addressing, linear probing, at most half full
  size_t mask_ = 0;
  int shift_ = 0;
};

}  // namespace omnitrain
