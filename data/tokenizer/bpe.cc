#include "data/tokenizer/bpe.h"

#include <algorithm>

#include "core/base/check.h"

namespace omnitrain {
namespace {
constexpr size_t kShortWord = 48;
}

BpeModel::BpeModel(const ByteIds& byte_ids, const std::vector<BpeMerge>& merges)
    : byte_ids_(byte_ids) {
  int bits = 4;
  while ((size_t{1} << bits) < 2 * merges.size()) ++bits;
  table_.resize(size_t{1} << bits);
  mask_ = table_.size() - 1;
  shift_ = 64 - bits;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const BpeMerge& m = merges[rank];
    const uint64_t pair =
        uint64_t{static_cast<uint32_t>(m.left)} << 32 | static_cast<uint32_t>(m.right);
    size_t slot = SlotOf(pair);
    while (table_[slot].pair != kNoPair && table_[slot].pair != pair) slot = (slot + 1) & mask_;
    table_[slot] = {pair, static_cast<int32_t>(rank), m.merged};
  }
}

void BpeModel::Encode(std::string_view word, std::vector<int32_t>* ids) const {
  const size_t first = ids->size();
  for (const char b : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(b)];
    OT_REQUIRE(id >= 0, ErrorCode::kData,
               "the tokenizer's vocabulary has no token for byte 0x{:02x}",
               static_cast<unsigned>(static_cast<uint8_t>(b)));
    ids->push_back(id);
  }
  if (word.size() < 2) return;
  word.size() <= kShortWord ? EncodeShort(ids, first) : EncodeLong(ids, first);
}

// Keeps the rank of every adjacent pair in an array and searches it: for short words faster than
// any queue.
void BpeModel::EncodeShort(std::vector<int32_t>* ids, size_t first) const {
  constexpr int32_t kNone = INT32_MAX;
  int32_t* id = ids->data() + first;
  size_t n = ids->size() - first;
  int32_t rank[kShortWord];
  int32_t merged[kShortWord];
  const auto look_up = [&](size_t i) {
    const Entry* entry = Find(id[i], id[i + 1]);
    rank[i] = entry != nullptr ? entry->rank : kNone;
    merged[i] = entry != nullptr ? entry->merged : 0;
  };
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    const size_t best = static_cast<size_t>(std::min_element(rank, rank + n - 1) - rank);
    if (rank[best] == kNone) break;
    id[best] = merged[best];
    for (size_t i = best + 1; i + 1 < n; ++i) {
      id[i] = id[i + 1];
      rank[i] = rank[i + 1];  // the last one moved is never read
      merged[i] = merged[i + 1];
    }
    --n;
    if (best + 1 < n) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids->resize(first + n);
}

// A heap of candidate merges over a linked list of tokens; candidates that no longer hold are
// dropped when they come up.
void BpeModel::EncodeLong(std::vector<int32_t>* ids, size_t first) const {
  struct Node {
    int32_t id;
    int32_t previous, next;
  };
  struct Candidate {
    int32_t rank;
    int32_t position;
    int32_t left, right, merged;
    bool operator<(const Candidate& other) const {  // std heaps keep the largest on top
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  const size_t size = ids->size() - first;
  OT_REQUIRE(size < size_t{INT32_MAX}, ErrorCode::kData,
             "a run of {} bytes without a break is too long", size);
  const auto n = static_cast<int32_t>(size);
  std::vector<Node> nodes(size);
  for (int32_t i = 0; i < n; ++i) {
    nodes[i] = {(*ids)[first + static_cast<size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1};
  }
  std::vector<Candidate> heap;
  const auto consider = [&](int32_t i, bool keep_order) {
    if (i < 0 || nodes[i].next < 0) return;
    const int32_t left = nodes[i].id, right = nodes[nodes[i].next].id;
    const Entry* entry = Find(left, right);
    if (entry == nullptr) return;
    heap.push_back({entry->rank, i, left, right, entry->merged});
    if (keep_order) std::push_heap(heap.begin(), heap.end());
  };
  for (int32_t i = 0; i < n; ++i) consider(i, false);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate c = heap.back();
    heap.pop_back();
    Node& node = nodes[c.position];
    if (node.id != c.left || node.next < 0 || nodes[node.next].id != c.right) continue;
    const int32_t gone = node.next;
    node.id = c.merged;
    node.next = nodes[gone].next;
    if (node.next >= 0) nodes[node.next].previous = c.position;
    nodes[gone].id = -1;  // no candidate holds for it any more
    consider(c.position, true);
    consider(node.previous, true);
  }
  size_t out = first;
  for (int32_t i = 0; i >= 0; i = nodes[i].next) (*ids)[out++] = nodes[i].id;
  ids->resize(out);
}

}  // namespace omnitrain
