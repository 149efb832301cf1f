#include "kernels/gemm/gemm_cuda.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>

#include "core/runtime/cuda_check.h"
#include "kernels/gemm/gemm_impl.h"

namespace omnitrain::cuda {
namespace {

void CheckLt(cublasStatus_t status, const char* call) {
  OT_CHECK(status == CUBLAS_STATUS_SUCCESS, "{}: {}", call, cublasLtGetStatusString(status));
}

cudaDataType_t CudaType(DType dtype) {
  OT_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "a product of {} on the GPU",
           DTypeName(dtype));
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

/// The stride of a tensor of one row says nothing, and the library refuses one below the width.
int64_t Stride(const Tensor& t) { return std::max(t.row_stride, t.shape[1]); }

/// The largest power of two, up to 256, that divides the address and the distance between rows.
uint32_t Alignment(const Tensor& t) {
  const auto bits = reinterpret_cast<uintptr_t>(t.data) |
                    static_cast<uintptr_t>(Stride(t) * static_cast<int64_t>(DTypeBytes(t.dtype)));
  uint32_t alignment = 256;
  while (bits % alignment != 0) alignment /= 2;
  return alignment;
}

// Descriptors are freed with their owner.
template <typename T, cublasStatus_t (*kDestroy)(T)>
struct Owned {
  T handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle != nullptr) kDestroy(handle);
  }
};

/// A product that was asked for before: its description and the algorithm chosen for it.
struct Plan {
  Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> description;
  Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> a, b, d;
  cublasLtMatmulAlgo_t algorithm;
};

// What a plan depends on: sizes, strides, dtypes, transposition, epilogue, alignment.
using PlanKey = std::array<int64_t, 13>;

/// One per context: the handle, its workspace and the plans made so far.
struct Library {
  Owned<cublasLtHandle_t, cublasLtDestroy> handle;
  std::map<PlanKey, std::unique_ptr<Plan>> plans;
  Buffer workspace;

  // cuBLAS' own advice for Hopper is 32 MiB.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  // Sizes follow the samples, so plans pile up: past this many they start afresh.
  static constexpr size_t kMaxPlans = 8192;

  void Open(Context& ctx) {
    if (handle.handle != nullptr) return;
    CheckLt(cublasLtCreate(&handle.handle), "cublasLtCreate");
    workspace = Buffer(ctx.device(), kWorkspaceBytes);
  }
};

void SetAttribute(Plan& plan, cublasLtMatmulDescAttributes_t attribute, const void* value,
                  size_t bytes) {
  CheckLt(cublasLtMatmulDescSetAttribute(plan.description.handle, attribute, value, bytes),
          "cublasLtMatmulDescSetAttribute");
}

void Describe(cublasLtMatrixLayout_t* layout, const Tensor& t) {
  // Row-major [rows, columns] is column-major [columns, rows].
  CheckLt(cublasLtMatrixLayoutCreate(layout, CudaType(t.dtype), static_cast<uint64_t>(t.shape[1]),
                                     static_cast<uint64_t>(t.shape[0]), Stride(t)),
          "cublasLtMatrixLayoutCreate");
}

std::unique_ptr<Plan> MakePlan(Library& library, const GemmOperand& left, const GemmOperand& right,
                               const Tensor& d, cublasLtEpilogue_t epilogue) {
  auto plan = std::make_unique<Plan>();
  CheckLt(cublasLtMatmulDescCreate(&plan->description.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
  const auto transposition = [](const GemmOperand& o) {
    return o.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  };
  const cublasOperation_t op_left = transposition(left), op_right = transposition(right);
  SetAttribute(*plan, CUBLASLT_MATMUL_DESC_TRANSA, &op_left, sizeof op_left);
  SetAttribute(*plan, CUBLASLT_MATMUL_DESC_TRANSB, &op_right, sizeof op_right);
  SetAttribute(*plan, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  if (epilogue == CUBLASLT_EPILOGUE_BIAS) {
    const cudaDataType_t type = CudaType(d.dtype);
    SetAttribute(*plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
  }
  Describe(&plan->a.handle, left.matrix);
  Describe(&plan->b.handle, right.matrix);
  Describe(&plan->d.handle, d);

  Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
  CheckLt(cublasLtMatmulPreferenceCreate(&preference.handle), "cublasLtMatmulPreferenceCreate");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    CheckLt(
        cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &value, sizeof value),
        "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, library.workspace.bytes());
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, Alignment(left.matrix));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, Alignment(right.matrix));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, Alignment(d));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, Alignment(d));
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      library.handle.handle, plan->description.handle, plan->a.handle, plan->b.handle,
      plan->d.handle, plan->d.handle, preference.handle, 1, &result, &found);
  OT_CHECK(status == CUBLAS_STATUS_SUCCESS && found > 0, "no algorithm for {} x {} into {}: {}",
           omnitrain::Describe(left.matrix), omnitrain::Describe(right.matrix),
           omnitrain::Describe(d), cublasLtGetStatusString(status));
  plan->algorithm = result.algo;
  return plan;
}

}  // namespace

void Gemm(Context& ctx, const GemmOperand& a, const GemmOperand& b, const Tensor& bias, Write write,
          const Tensor& d) {
  if (d.num_elements() == 0) return;
  Library& library = ctx.State<Library>();
  library.Open(ctx);
  // Column-major, d^T = op(b)^T op(a)^T: the operands change places and keep their transposition.
  const GemmOperand &left = b, &right = a;
  const cublasLtEpilogue_t epilogue = bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  const auto flags = [](const GemmOperand& o) {
    return static_cast<int64_t>(o.is_transposed) * 1024 + Alignment(o.matrix);
  };
  const PlanKey key = {left.matrix.shape[0],
                       left.matrix.shape[1],
                       Stride(left.matrix),
                       flags(left),
                       right.matrix.shape[0],
                       right.matrix.shape[1],
                       Stride(right.matrix),
                       flags(right),
                       Stride(d),
                       static_cast<int64_t>(Alignment(d)),
                       static_cast<int64_t>(a.matrix.dtype),
                       static_cast<int64_t>(d.dtype),
                       static_cast<int64_t>(epilogue)};
  if (library.plans.size() > Library::kMaxPlans) library.plans.clear();
  std::unique_ptr<Plan>& plan = library.plans[key];
  if (plan == nullptr) plan = MakePlan(library, left, right, d, epilogue);
  if (bias) {
    SetAttribute(*plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.data, sizeof bias.data);
  }
  const float alpha = 1, beta = write == Write::kAccumulate ? 1 : 0;
  CheckLt(cublasLtMatmul(library.handle.handle, plan->description.handle, &alpha, left.matrix.data,
                         plan->a.handle, right.matrix.data, plan->b.handle, &beta, d.data,
                         plan->d.handle, d.data, plan->d.handle, &plan->algorithm,
                         library.workspace.data(), library.workspace.bytes(),
                         static_cast<cudaStream_t>(ctx.stream().native())),
          "cublasLtMatmul");
}

void LinearForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, Write write,
                   Tensor y) {
  Gemm(ctx, {x}, {w, true}, bias, write, y);
}

void LinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w, Write write, Tensor dx) {
  Gemm(ctx, {dy}, {w}, Tensor(), write, dx);
}

void LinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy, Tensor dw, Tensor dbias) {
  if (x.rows() == 0) return;
  Gemm(ctx, {dy, true}, {x}, Tensor(), Write::kAccumulate, dw);
  if (dbias) AddColumnSums(ctx, dy, dbias);
}

}  // namespace omnitrain::cuda
