#include "core/model/context_attention.h"
#include "tests/core/model/context_attention_harness.h"
#include "tests/support/mpi_world.h"

namespace omnitrain {
namespace {

/// The sum over ranks, of which each has its own elements and 0 elsewhere.
void GatherSum(Communicator& comm, CpuContext& cpu, const Array& a) {
  comm.AllReduce(*a, ReduceOp::kSum, *cpu.stream).Wait(*cpu.stream);
}

// Messages over MPI come while the ranks compute: memory that is used too early shows here.
TEST_CASE("attention over MPI ranks is attention on one") {
  Communicator& comm = MpiTestWorld().world();
  CpuContext cpu(1);
  const AttentionHeads kHeads[] = {{4, 2, kHeadDim}, {4, 1, kHeadDim}, {6, 3, kHeadDim}};
  for (const AttentionHeads& heads : kHeads) {
    for (const ContextMethod method : {ContextMethod::kRing, ContextMethod::kUlysses}) {
      if (method == ContextMethod::kUlysses && !AllowsUlysses(heads, comm.size())) continue;
      const std::vector<RowLayout> layouts = Layouts(comm.size(), heads, method);
      std::vector<Whole> got = Inputs(layouts, heads);
      for (Whole& w : got) {
        for (Array* a : {&w.o, &w.lse, &w.d_q, &w.d_k, &w.d_v}) {
          a->SetValues(std::vector<double>(a->Values().size(), 0));
        }
      }
      RunRank(comm, layouts, heads, &got);
      for (size_t i = 0; i < layouts.size(); ++i) {
        INFO("heads " << heads.query << ":" << heads.kv << " method " << static_cast<int>(method)
                      << " sequence " << i);
        for (const Array* a : {&got[i].o, &got[i].lse, &got[i].d_q, &got[i].d_k, &got[i].d_v}) {
          GatherSum(comm, cpu, *a);
        }
        CheckResults(layouts[i], got[i], Whole(layouts[i], heads, 10 * i));
      }
    }
  }
}

}  // namespace
}  // namespace omnitrain
