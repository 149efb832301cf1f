#include "data/tokenizer/bpe_learner.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <queue>
#include <unordered_map>

#include "core/base/check.h"
#include "data/tokenizer/byte_level.h"

namespace omnitrain {
namespace {

struct Pair {
  int32_t left;
  int32_t right;
  bool operator==(const Pair& o) const { return left == o.left && right == o.right; }
  bool operator<(const Pair& o) const { return left != o.left ? left < o.left : right < o.right; }
};

struct PairHash {
  size_t operator()(const Pair& p) const {
    const uint64_t key =
        uint64_t{static_cast<uint32_t>(p.left)} << 32 | static_cast<uint32_t>(p.right);
    const uint64_t mixed = key * 0x9E3779B97F4A7C15ull;
    return mixed ^ mixed >> 32;
  }
};

struct PairState {
  int64_t count = 0;
  std::vector<uint32_t> words;  // those that hold the pair, and some that no longer do
};

struct Candidate {
  int64_t count;
  Pair pair;
  bool operator<(const Candidate& o) const {  // the queue's top is the largest
    return count != o.count ? count < o.count : o.pair < pair;
  }
};

class Learner {
 public:
  Learner(const WordCounts& words, int64_t min_count) : words_(words), min_count_(min_count) {
    std::array<int, 256> order;
    std::iota(order.begin(), order.end(), 0);
    const auto char_of = [](int b) { return ByteToChar(static_cast<unsigned char>(b)); };
    std::sort(order.begin(), order.end(), [&](int a, int b) { return char_of(a) < char_of(b); });
    std::array<int32_t, 256> id_of_byte;
    for (int id = 0; id < 256; ++id) {
      id_of_byte[static_cast<size_t>(order[static_cast<size_t>(id)])] = id;
      NewToken(std::string(1, static_cast<char>(order[static_cast<size_t>(id)])));
    }
    CountPairs(id_of_byte);
  }

  LearnedBpe Learn(size_t num_tokens) {
    while (learned_.tokens.size() < num_tokens && !queue_.empty()) {
      Candidate top = queue_.top();
      queue_.pop();
      const auto state = pairs_.find(top.pair);
      if (state == pairs_.end()) continue;
      if (state->second.count != top.count) {  // counts fall without notice to the queue
        top.count = state->second.count;
        if (top.count >= min_count_) queue_.push(top);
        continue;
      }
      if (top.count < min_count_) break;
      const std::vector<uint32_t> holders = std::move(state->second.words);
      pairs_.erase(state);
      MergePair(top.pair, holders);
    }
    return std::move(learned_);
  }

 private:
  int32_t NewToken(const std::string& bytes) {
    const auto [it, is_new] =
        id_of_token_.emplace(bytes, static_cast<int32_t>(learned_.tokens.size()));
    if (is_new) learned_.tokens.push_back(bytes);
    return it->second;
  }

  void CountPairs(const std::array<int32_t, 256>& id_of_byte) {
    begins_.reserve(words_.size());
    lengths_.reserve(words_.size());
    for (size_t w = 0; w < words_.size(); ++w) {
      begins_.push_back(ids_.size());
      lengths_.push_back(words_.word(w).size());
      for (const char b : words_.word(w)) {
        ids_.push_back(id_of_byte[static_cast<uint8_t>(b)]);
      }
      for (size_t i = begins_[w]; i + 1 < ids_.size(); ++i) {
        Change({ids_[i], ids_[i + 1]}, words_.count(w), static_cast<uint32_t>(w));
      }
    }
    changed_.clear();
    for (const auto& [pair, state] : pairs_) queue_.push({state.count, pair});
  }

  void Change(Pair pair, int64_t delta, uint32_t word) {
    if (delta < 0) {
      const auto it = pairs_.find(pair);
      if (it != pairs_.end()) it->second.count += delta;  // the pair being merged is gone already
      return;
    }
    PairState& state = pairs_[pair];
    state.count += delta;
    if (state.words.empty() || state.words.back() != word) state.words.push_back(word);
    changed_.push_back(pair);
  }

  void MergePair(Pair pair, const std::vector<uint32_t>& holders) {
    const int32_t merged = NewToken(learned_.tokens[static_cast<size_t>(pair.left)] +
                                    learned_.tokens[static_cast<size_t>(pair.right)]);
    learned_.merges.push_back({pair.left, pair.right, merged});
    changed_.clear();
    for (const uint32_t w : holders) MergeInWord(pair, merged, w);
    // A pair may be reported many times; the queue needs its final count once.
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const Pair& p : changed_) {
      const int64_t count = pairs_[p].count;
      if (count >= min_count_) queue_.push({count, p});
    }
  }

  void MergeInWord(Pair pair, int32_t merged, uint32_t w) {
    int32_t* ids = ids_.data() + begins_[w];
    const size_t n = lengths_[w];
    const int64_t count = words_.count(w);
    size_t out = 0;
    for (size_t i = 0; i < n; ++i) {
      if (i + 1 == n || ids[i] != pair.left || ids[i + 1] != pair.right) {
        ids[out++] = ids[i];
        continue;
      }
      if (out > 0) {
        Change({ids[out - 1], pair.left}, -count, w);
        Change({ids[out - 1], merged}, count, w);
      }
      if (i + 2 < n) {
        Change({pair.right, ids[i + 2]}, -count, w);
        Change({merged, ids[i + 2]}, count, w);
      }
      ids[out++] = merged;
      ++i;
    }
    lengths_[w] = out;
  }

  const WordCounts& words_;
  const int64_t min_count_;
  LearnedBpe learned_;
  std::unordered_map<std::string, int32_t> id_of_token_;
  std::vector<int32_t> ids_;  // the tokens of all words, one word behind the other
  std::vector<size_t> begins_, lengths_;
  std::unordered_map<Pair, PairState, PairHash> pairs_;
  std::priority_queue<Candidate> queue_;
  std::vector<Pair> changed_;  // pairs that grew in this merge
};

}  // namespace

LearnedBpe LearnBpe(const WordCounts& words, int num_tokens, int64_t min_count) {
  OT_CHECK(num_tokens >= 256 && min_count >= 1, "{} tokens, min_count {}", num_tokens, min_count);
  return Learner(words, min_count).Learn(static_cast<size_t>(num_tokens));
}

}  // namespace omnitrain
