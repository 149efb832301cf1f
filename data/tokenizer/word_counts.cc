#include "data/tokenizer/word_counts.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/base/check.h"

namespace omnitrain {

void WordCounts::Add(std::string_view word) {
  const uint64_t hash = XXH3_64bits(word.data(), word.size());
  const size_t mask = slots_.size() - 1;
  size_t slot = hash & mask;
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    Word& known = words_[slots_[slot] - 1];
    if (known.hash == hash &&
        word == std::string_view(bytes_).substr(known.begin, known.num_bytes)) {
      ++known.count;
      return;
    }
  }
  OT_REQUIRE(words_.size() + 1 < UINT32_MAX, ErrorCode::kData,
             "the text has more than {} distinct words", words_.size());
  words_.push_back({hash, bytes_.size(), word.size(), 1});
  bytes_.append(word);
  slots_[slot] = static_cast<uint32_t>(words_.size());
  if (2 * words_.size() > slots_.size()) Grow();
}

void WordCounts::Grow() {
  std::vector<uint32_t> slots(2 * slots_.size(), 0);
  const size_t mask = slots.size() - 1;
  for (size_t i = 0; i < words_.size(); ++i) {
    size_t slot = words_[i].hash & mask;
    while (slots[slot] != 0) slot = (slot + 1) & mask;
    slots[slot] = static_cast<uint32_t>(i + 1);
  }
  slots_ = std::move(slots);
}

}  // namespace omnitrain
