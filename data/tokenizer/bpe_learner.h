#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer/bpe.h"
#include "data/tokenizer/word_counts.h"

namespace omnitrain {

struct LearnedBpe {
  std::vector<std::string> tokens;  // bytes of each, by id: first the single bytes, then the merged
  std::vector<BpeMerge> merges;     // in rank order
};

/// Learns merges from words until there are `num_tokens` tokens or no pair occurs `min_count`
/// times. Single bytes have the ids that the order of their characters in the byte alphabet gives.
/// Deterministic: the most frequent pair is merged first; of equally frequent ones that with the
/// smaller left id, then the smaller right id (the rule of Hugging Face's BpeTrainer). Cost: pair
/// counts are kept up to date, a merge visits only the words that hold its pair. Source: Sennrich
/// et al. 2016, algorithm 1.
LearnedBpe LearnBpe(const WordCounts& words, int num_tokens, int64_t min_count);

}  // namespace omnitrain
