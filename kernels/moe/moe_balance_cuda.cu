#include "kernels/common/cuda.cuh"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/moe/moe_impl.h"

namespace omnitrain::cuda {
namespace {

constexpr int kThreads = 256;
// Histograms that fit the shared memory every kernel may use.
constexpr int64_t kMaxExperts = 8192;

/// counts[e] += how often e is among ids. Integers add up to the same in any order.
__global__ void __launch_bounds__(kThreads)
    CountKernel(const int32_t* ids, int64_t num_ids, int num_experts, int32_t* counts) {
  extern __shared__ int32_t mine[];
  for (int e = threadIdx.x; e < num_experts; e += kThreads) mine[e] = 0;
  __syncthreads();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < num_ids;
       i += step) {
    atomicAdd(&mine[ids[i]], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < num_experts; e += kThreads) {
    if (mine[e] != 0) atomicAdd(&counts[e], mine[e]);
  }
}

/// One block: the sum over experts in a fixed order.
__global__ void __launch_bounds__(kThreads)
    BalanceKernel(const int32_t* counts, const float* prob_sums, int num_experts, double scale,
                  double* loss_sum, float* d_probs) {
  __shared__ double partial[kThreads];
  double sum = 0;
  for (int e = threadIdx.x; e < num_experts; e += kThreads) {
    sum += scale * counts[e] * static_cast<double>(prob_sums[e]);
    if (d_probs != nullptr) d_probs[e] = static_cast<float>(scale * counts[e]);
  }
  partial[threadIdx.x] = sum;
  for (int step = kThreads / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) partial[threadIdx.x] += partial[threadIdx.x + step];
  }
  if (threadIdx.x == 0) *loss_sum += partial[0];
}

}  // namespace

void MoeLoadSums(Context& ctx, const Tensor& probs, const Tensor& expert_ids, Tensor counts,
                 Tensor prob_sums) {
  const int64_t num_ids = expert_ids.num_elements(), num_experts = counts.shape[0];
  if (num_ids == 0) return;
  OT_CHECK(num_experts <= kMaxExperts, "moe_load_sums: {} experts, at most {}", num_experts,
           kMaxExperts);
  const auto shared = static_cast<size_t>(num_experts) * sizeof(int32_t);
  CountKernel<<<NumBlocks(num_ids, 16 * kThreads), kThreads, shared, StreamOf(ctx)>>>(
      Data<int32_t>(expert_ids), num_ids, static_cast<int>(num_experts), Data<int32_t>(counts));
  CheckLaunch("CountKernel");
  AddColumnSums(ctx, probs, prob_sums);
}

void MoeBalanceLoss(Context& ctx, const Tensor& counts, const Tensor& prob_sums, int64_t num_tokens,
                    double coefficient, Tensor loss_sum, Tensor d_probs) {
  // No tokens add nothing.
  const double n = num_tokens == 0 ? 1.0 : static_cast<double>(num_tokens);
  const double num_experts = static_cast<double>(counts.shape[0]);
  const double scale = num_tokens == 0 ? 0 : coefficient * num_experts / (n * n);
  BalanceKernel<<<1, kThreads, 0, StreamOf(ctx)>>>(
      Data<int32_t>(counts), Data<float>(prob_sums), static_cast<int>(counts.shape[0]), scale,
      Data<double>(loss_sum), d_probs ? Data<float>(d_probs) : nullptr);
  CheckLaunch("BalanceKernel");
}

}  // namespace omnitrain::cuda
