#include "data/tokenizer/bpe.h"

#include <algorithm>
#include <string>

#include "data/tokenizer/word_cache.h"
#include "tests/data/tokenizer/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Ids = std::vector<int32_t>;

// Bytes a..d and merges that compete and cascade.
const std::vector<BpeMerge> kMerges = {{0, 0, 4}, {4, 4, 5},  {1, 0, 6},  {0, 1, 7},  {6, 6, 8},
                                       {4, 1, 9}, {7, 2, 10}, {5, 0, 11}, {8, 8, 12}, {2, 3, 13}};

BpeModel Model() {
  BpeModel::ByteIds bytes;
  bytes.fill(-1);
  for (int i = 0; i < 4; ++i) bytes[static_cast<size_t>('a' + i)] = i;
  return BpeModel(bytes, kMerges);
}

// The definition: merge the first place of the lowest-ranked pair until there is none.
Ids Reference(const std::string& word) {
  Ids ids;
  for (const char c : word) ids.push_back(c - 'a');
  while (true) {
    size_t best_rank = kMerges.size(), best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (kMerges[rank].left == ids[i] && kMerges[rank].right == ids[i + 1]) {
          best_rank = rank, best = i;
        }
      }
    }
    if (best_rank == kMerges.size()) return ids;
    ids[best] = kMerges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST_CASE("Short and long words are merged as defined") {
  const BpeModel model = Model();
  for (uint64_t i = 0; i < 2000; ++i) {
    std::string word;
    for (const char c : RandomText(21, i, 30)) word.push_back(static_cast<char>('a' + (c & 3)));
    word.resize(i % 150, 'a');
    Ids ids = {-7};
    model.Encode(word, &ids);
    Ids want = Reference(word);
    want.insert(want.begin(), -7);
    REQUIRE(ids == want);
  }
}

TEST_CASE("A run of a million bytes is no trouble") {
  const BpeModel model = Model();
  Ids ids;
  model.Encode(std::string(1000003, 'a'), &ids);
  CHECK(ids.size() == 250002);
  CHECK(std::count(ids.begin(), ids.end(), 5) == 250000);
}

TEST_CASE("The word cache returns what was put in, or nothing") {
  WordCache cache;
  Ids out;
  const auto hash = [](const std::string& w) { return WordCache::Hash(w); };
  CHECK_FALSE(cache.Find("abc", hash("abc"), &out));
  const Ids ids = {3, 1, 2};
  cache.Insert("abc", hash("abc"), ids.data(), ids.size());
  CHECK(cache.Find("abc", hash("abc"), &out));
  CHECK(out == ids);
  const std::string long_word(26, 'x');
  cache.Insert(long_word, hash(long_word), ids.data(), 1);
  CHECK_FALSE(cache.Find(long_word, hash(long_word), &out));
  // Far more words than slots: those that are found are right.
  int num_found = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int32_t i = 0; i < 200000; ++i) {
      const std::string word = std::to_string(i);
      if (pass == 0) {
        cache.Insert(word, hash(word), &i, 1);
        continue;
      }
      out.clear();
      if (!cache.Find(word, hash(word), &out)) continue;
      ++num_found;
      REQUIRE(out == Ids{i});
    }
  }
  CHECK(num_found > 30000);
}

}  // namespace
}  // namespace omnitrain
