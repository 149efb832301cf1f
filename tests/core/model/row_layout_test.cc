#include "core/model/row_layout.h"

#include <vector>

#include "core/model/ring_blocks.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

LlmPlace Place(int cp, int tp = 1, ContextMethod method = ContextMethod::kAuto) {
  LlmPlace place;
  place.cp.size = cp;
  place.tp.size = tp;
  place.context_method = method;
  return place;
}

TEST_CASE("padding is a segment of its own") {
  const RowLayout layout = MakeRowLayout(13, {0, 5, 13}, Place(2, 3), {4, 2, 8});
  CHECK(layout.num_rows == 24);
  CHECK(layout.cu_seqlens == std::vector<int32_t>{0, 5, 13, 24});
  CHECK(MakeRowLayout(24, {0, 24}, Place(2, 3), {4, 2, 8}).cu_seqlens ==
        std::vector<int32_t>{0, 24});
  CHECK(MakeRowLayout(13, {0, 5, 13}, Place(1), {4, 2, 8}).num_rows == 13);
  const RowLayout empty = MakeRowLayout(0, {}, Place(4, 2), {4, 2, 8});
  CHECK(empty.num_rows == 0);
  CHECK(NumRows(empty.LocalRows(3, 1)) == 0);
}

TEST_CASE("the ranks of a replica hold each row once") {
  for (const ContextMethod method : {ContextMethod::kRing, ContextMethod::kUlysses}) {
    for (const int cp : {1, 2, 4}) {
      for (const int tp : {1, 2, 3}) {
        const RowLayout layout = MakeRowLayout(100, {0, 100}, Place(cp, tp, method), {4, 4, 8});
        std::vector<int> count(static_cast<size_t>(layout.num_rows));
        for (int c = 0; c < cp; ++c) {
          for (int t = 0; t < tp; ++t) {
            const RowRuns runs = layout.LocalRows(c, t);
            CHECK(NumRows(runs) == layout.num_rows / (cp * tp));
            for (const RowRun& run : runs) {
              for (int64_t r = run.begin; r < run.end(); ++r) ++count[static_cast<size_t>(r)];
            }
          }
        }
        CHECK(count == std::vector<int>(count.size(), 1));
      }
    }
  }
  const RowLayout ring = MakeRowLayout(16, {0, 16}, Place(2, 2, ContextMethod::kRing), {4, 4, 8});
  CHECK(ring.CpRows(0) == RowRuns{{0, 4}, {12, 4}});
  CHECK(ring.LocalRows(0, 1) == RowRuns{{12, 4}});
  const RowLayout ulysses =
      MakeRowLayout(16, {0, 16}, Place(2, 2, ContextMethod::kUlysses), {4, 4, 8});
  CHECK(ulysses.CpRows(1) == RowRuns{{8, 8}});
  CHECK(ulysses.LocalRows(1, 1) == RowRuns{{12, 4}});
}

TEST_CASE("a forced Ulysses that does not fit the heads says why") {
  const LlmPlace place = Place(4, 1, ContextMethod::kUlysses);
  try {
    MakeRowLayout(16, {0, 16}, place, {6, 2, 8});
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kSpec);
    CHECK_THAT(error.what(), Catch::Contains("6 query heads") && Catch::Contains("cp=4"));
  }
  CHECK_THROWS_WITH(MakeRowLayout(16, {0, 16}, place, {12, 3, 8}),
                    Catch::Contains("3 kv heads") && Catch::Contains("cp=4"));
  CHECK(MakeRowLayout(16, {0, 16}, place, {8, 2, 8}).method == ContextMethod::kUlysses);
  CHECK(MakeRowLayout(16, {0, 16}, Place(4), {6, 2, 8}).method == ContextMethod::kRing);
}

TEST_CASE("the method follows the documents") {
  const AttentionHeads heads{32, 8, 128};
  const auto method = [&](std::vector<int32_t> cu_seqlens, int cp) {
    return MakeRowLayout(cu_seqlens.back(), cu_seqlens, Place(cp), heads).method;
  };
  // One long document: the ring hides its bytes behind evenly spread pairs.
  CHECK(method({0, 1 << 17}, 8) == ContextMethod::kRing);
  // A long document behind short ones: its pairs lie on few ranks, but all ranks have heads.
  std::vector<int32_t> uneven{0};
  for (int i = 0; i < 48; ++i) uneven.push_back(uneven.back() + 2048);
  uneven.push_back(1 << 17);
  CHECK(method(uneven, 8) == ContextMethod::kUlysses);
  // Documents as long as runs: nothing to send.
  std::vector<int32_t> even{0};
  for (int i = 0; i < 16; ++i) even.push_back(even.back() + 8192);
  CHECK(method(even, 8) == ContextMethod::kRing);
}

TEST_CASE("the costs of a method, by hand") {
  // Runs of 512 rows: 0 and 3, 1 and 2. Each rank's rows make 1024 * 1025 / 2 pairs.
  const AttentionHeads heads{2, 1, 64};
  const RowLayout layout = MakeRowLayout(2048, {0, 2048}, Place(2, 1, ContextMethod::kRing), heads);
  // Then rank 1 has 1024 queries over 512 keys of rank 0, and that 512 queries over 1024 keys.
  const int64_t own = 1024 * 1025 / 2 * 4 * 2 * 64 / 1024, next = 1024 * 512 * 4 * 2 * 64 / 1024;
  CHECK(RingCost(layout, heads) == own + next);
  const int64_t all = int64_t{2048} * 2049 / 2 * 4 * 64 / 1024;
  CHECK(UlyssesCost(layout, heads) == all + 1024 * 2 * (1 + 1) * 64 * 2);
}

TEST_CASE("local segments and seen blocks hold each visible pair once") {
  const std::vector<std::vector<int32_t>> sequences = {
      {0, 48}, {0, 3, 3, 10, 31, 48}, {0, 1, 2, 3, 4, 48}, {0, 6, 12, 24, 47, 48}, {0, 40, 48}};
  for (const std::vector<int32_t>& cu_seqlens : sequences) {
    for (const int n : {1, 2, 3, 4, 8}) {
      INFO("n " << n << ", second border " << cu_seqlens[1]);
      std::vector<std::vector<int64_t>> rows(static_cast<size_t>(n));
      for (int r = 0; r < n; ++r) {
        for (const RowRun& run : ZigzagRows(48, n, r)) {
          for (int64_t i = run.begin; i < run.end(); ++i) rows[r].push_back(i);
        }
      }
      std::vector<int> seen(48 * 48), want(48 * 48);
      for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d) {
        for (int q = cu_seqlens[d]; q < cu_seqlens[d + 1]; ++q) {
          for (int k = cu_seqlens[d]; k <= q; ++k) want[q * 48 + k] = 1;
        }
      }
      for (int q_rank = 0; q_rank < n; ++q_rank) {
        const RowRuns queries = ZigzagRows(48, n, q_rank);
        const std::vector<int32_t> own = LocalSegments(queries, cu_seqlens);
        CHECK(own.back() == NumRows(queries));
        for (size_t d = 0; d + 1 < own.size(); ++d) {
          for (int q = own[d]; q < own[d + 1]; ++q) {
            for (int k = own[d]; k <= q; ++k) ++seen[rows[q_rank][q] * 48 + rows[q_rank][k]];
          }
        }
        for (int k_rank = 0; k_rank < n; ++k_rank) {
          const SeenBlock block = FindSeenBlock(queries, ZigzagRows(48, n, k_rank), cu_seqlens);
          for (int64_t q = block.queries.begin; q < block.queries.end(); ++q) {
            for (int64_t k = block.keys.begin; k < block.keys.end(); ++k) {
              ++seen[rows[q_rank][q] * 48 + rows[k_rank][k]];
            }
          }
        }
      }
      CHECK(seen == want);
    }
  }
}

}  // namespace
}  // namespace omnitrain
