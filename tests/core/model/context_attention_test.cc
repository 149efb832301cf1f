#include "core/model/context_attention.h"

#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/model/context_attention_harness.h"

namespace omnitrain {
namespace {

/// The micro-batches on ranks that are threads.
void RunRanks(const std::vector<RowLayout>& layouts, const AttentionHeads& heads,
              std::vector<Whole>* wholes) {
  InProcessWorld(layouts.front().cp_size).Run([&](Communicator& comm) {
    RunRank(comm, layouts, heads, wholes);
  });
}

TEST_CASE("attention over cp ranks is attention on one") {
  const AttentionHeads kHeads[] = {{4, 2, kHeadDim}, {4, 1, kHeadDim}, {4, 4, kHeadDim},
                                   {8, 2, kHeadDim}, {6, 3, kHeadDim}, {6, 1, kHeadDim}};
  int num_runs[2] = {0, 0};
  for (const int n : {1, 2, 3, 4, 8}) {
    for (const AttentionHeads& heads : kHeads) {
      for (const ContextMethod method : {ContextMethod::kRing, ContextMethod::kUlysses}) {
        if (method == ContextMethod::kUlysses && !AllowsUlysses(heads, n)) continue;
        ++num_runs[method == ContextMethod::kUlysses];
        const std::vector<RowLayout> layouts = Layouts(n, heads, method);
        std::vector<Whole> got = Inputs(layouts, heads);
        RunRanks(layouts, heads, &got);
        for (size_t i = 0; i < layouts.size(); ++i) {
          INFO("cp " << n << " heads " << heads.query << ":" << heads.kv << " method "
                     << static_cast<int>(method) << " sequence " << i);
          CheckResults(layouts[i], got[i], Whole(layouts[i], heads, 10 * i));
        }
      }
    }
  }
  CHECK(num_runs[0] == 30);
  CHECK(num_runs[1] == 6 + 5 + 2 + 4 + 1);
}

TEST_CASE("attention over cp ranks is the same bit for bit each time") {
  const AttentionHeads heads{8, 2, kHeadDim};
  for (const ContextMethod method : {ContextMethod::kRing, ContextMethod::kUlysses}) {
    const std::vector<RowLayout> layouts = Layouts(4, heads, method);
    std::vector<Whole> first = Inputs(layouts, heads), second = Inputs(layouts, heads);
    RunRanks(layouts, heads, &first);
    RunRanks(layouts, heads, &second);
    for (size_t i = 0; i < layouts.size(); ++i) {
      CHECK(first[i].o == second[i].o);
      CHECK(first[i].d_q == second[i].d_q);
      CHECK(first[i].d_k == second[i].d_k);
      CHECK(first[i].d_v == second[i].d_v);
    }
  }
}

TEST_CASE("an empty micro-batch is legal on every number of ranks") {
  const AttentionHeads heads{4, 4, kHeadDim};
  for (const int n : {1, 2, 4}) {
    for (const ContextMethod method : {ContextMethod::kRing, ContextMethod::kUlysses}) {
      LlmPlace place;
      place.cp.size = n;
      place.context_method = method;
      const std::vector<RowLayout> layouts{MakeRowLayout(0, {}, place, heads)};
      std::vector<Whole> wholes = Inputs(layouts, heads);
      RunRanks(layouts, heads, &wholes);
      CHECK(wholes.front().T == 0);
    }
  }
}

TEST_CASE("the workspace stays within its formula") {
  constexpr int kRanks = 4;
  constexpr int64_t kRows = 1024, kDim = 64;
  const auto bytes_of = [&](const AttentionHeads& heads, ContextMethod method, int rank) {
    LlmPlace place;
    place.cp.size = kRanks;
    place.context_method = method;
    const RowLayout layout = MakeRowLayout(kRanks * kRows, {0, kRanks * kRows}, place, heads);
    const ContextAttention attention({kRanks, rank, nullptr}, heads, DType::kBF16);
    Carver count;
    return static_cast<int64_t>(attention.WorkspaceBytes(attention.Carve(count, layout)));
  };
  for (const AttentionHeads& heads : {AttentionHeads{8, 2, kDim}, AttentionHeads{64, 1, kDim}}) {
    const int64_t H = heads.query, G = heads.kv, unit = kRows * kDim;
    const int64_t ring = unit * ((H + 14 * G) * 2 + (H + 4 * G) * 4) + kRows * H * 4;
    const int64_t ulysses = unit * (8 * (H + kRanks) * 2 + (2 * G + 1) * 4);
    for (int rank = 0; rank < kRanks; ++rank) {
      CHECK(bytes_of(heads, ContextMethod::kRing, rank) > ring / 3);
      CHECK(bytes_of(heads, ContextMethod::kRing, rank) <= ring);
      CHECK(bytes_of(heads, ContextMethod::kUlysses, rank) == ulysses);
    }
  }
}

}  // namespace
}  // namespace omnitrain
