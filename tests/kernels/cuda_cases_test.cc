// Every op on the GPU against its f64 twin on the CPU. Needs a GPU: not part of `bazel test //...`.
#include <algorithm>
#include <cmath>
#include <map>

#include "core/base/rng.h"
#include "kernels/attention/attention.h"
#include "kernels/cases/op_cases.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

struct Bench {
  explicit Bench(std::unique_ptr<Device> device_)
      : device(std::move(device_)), stream(device->NewStream()), ctx(*device, *stream) {}
  std::unique_ptr<Device> device;
  std::unique_ptr<Stream> stream;
  Context ctx;
};

using Written = std::map<std::string, std::vector<char>>;

/// Forward, then backward; the bytes of everything that is written.
Written Run(CaseRun* run, const OpCase& c) {
  run->Forward();
  if (c.backward) run->Backward();
  CHECK(run->FindTrespass() == "");
  Written written;
  for (const Operand& o : c.operands) {
    if (o.is_output || o.is_grad) written[o.name] = run->Bytes(o.name);
  }
  return written;
}

Bound BoundOf(const OpCase& c, DType dtype, const Tensor& reference) {
  double largest = 0;
  for (int64_t i = 0; i < reference.num_elements(); ++i) {
    largest = std::max(largest, std::fabs(ElementAt(reference, i)));
  }
  if (dtype == DType::kBF16) {
    if (c.f32_abs > 0) return {3e-2};
    // The bound is that of many elements, whose roundings average out; a few may all be unlucky.
    const double luck = reference.num_elements() < 16 ? 2 : 1;
    return {10 * c.bf16_rel_l2 * largest, 0, luck * c.bf16_rel_l2};
  }
  // Sums on the GPU run in another order than on the CPU.
  constexpr double kOrder = 2;
  if (c.f32_abs > 0) return {kOrder * c.f32_abs};
  return {10 * kOrder * c.f32_rel_l2 * largest, 0, kOrder * c.f32_rel_l2};
}

void CheckAgainstTwin(const std::vector<OpCase>& cases, DType dtype) {
  Bench cpu(NewCpuDevice()), gpu(NewCudaDevice(0));
  for (const OpCase& c : cases) {
    if (c.is_bench()) continue;
    CaseRun run(gpu.ctx, c, dtype), twin(cpu.ctx, c, DType::kF64, dtype);
    const Written got = Run(&run, c), want = Run(&twin, c);
    for (const auto& [name, bytes] : got) {
      INFO(c.Name() << " " << name);
      const Tensor reference = twin.HostView(name, want.at(name));
      CHECK(Compare(run.HostView(name, bytes), reference, BoundOf(c, dtype, reference)));
    }
  }
}

TEST_CASE("f32 on the GPU agrees with f64 on the CPU, and every element is written") {
  CheckAgainstTwin(AllOpCases(), DType::kF32);
}

TEST_CASE("bf16 on the GPU agrees with f64 on the CPU, and every element is written") {
  CheckAgainstTwin(AllOpCases(), DType::kBF16);
}

TEST_CASE("Random shapes on the GPU agree with f64 on the CPU") {
  const std::vector<OpCase> cases = RandomOpCases(23, 25);
  CheckAgainstTwin(cases, DType::kF32);
  CheckAgainstTwin(cases, DType::kBF16);
}

TEST_CASE("The GPU gives the same bits again") {
  Bench gpu(NewCudaDevice(0));
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const OpCase& c : AllOpCases()) {
      if (c.is_bench()) continue;
      INFO(c.Name() << " " << DTypeName(dtype));
      CaseRun run(gpu.ctx, c, dtype);
      const Written first = Run(&run, c);
      run.Reset();
      CHECK(Run(&run, c) == first);
    }
  }
}

// Rows behind a sequence are read with its last tile.
TEST_CASE("A sequence of NaN leaves its neighbours alone on the GPU") {
  Bench gpu(NewCudaDevice(0));
  constexpr int64_t kFirst = 200, kRows = 330, kHeads = 2;
  const std::vector<int32_t> borders{0, kFirst, kRows};
  const OwnedTensor cu_seqlens(gpu.ctx.device(), DType::kI32, {3});
  gpu.ctx.device().Copy(cu_seqlens->data, borders.data(), 3 * sizeof(int32_t), *gpu.stream);
  for (const int64_t head_dim : {80, 128}) {
    const Shape shape{kRows, kHeads, head_dim};
    const int64_t row = kHeads * head_dim, count = kRows * row;
    // q, k, v, d_o, then what is written: o, dq, dk, dv.
    std::vector<OwnedTensor> t;
    for (int i = 0; i < 8; ++i) t.emplace_back(gpu.ctx.device(), DType::kBF16, shape);
    const OwnedTensor lse(gpu.ctx.device(), DType::kF32, {kHeads, kRows});
    AttentionParams params;
    params.softmax_scale = 0.1;
    params.max_seqlen = kFirst;
    const auto first_of_outputs = [&](float second) {
      for (int i = 0; i < 4; ++i) {
        std::vector<BFloat16> host;
        for (int64_t k = 0; k < count; ++k) {
          const auto x = static_cast<float>(
              RandomNormal(7, static_cast<uint64_t>(i), static_cast<uint64_t>(k)));
          host.push_back(ToBFloat16(k < kFirst * row ? x : second));
        }
        gpu.ctx.device().Copy(t[i]->data, host.data(), host.size() * 2, *gpu.stream);
      }
      AttentionForward(gpu.ctx, *t[0], *t[1], *t[2], *cu_seqlens, params, *t[4], *lse);
      AttentionBackward(gpu.ctx, *t[3], *t[0], *t[1], *t[2], *t[4], *lse, *cu_seqlens, params,
                        *t[5], *t[6], *t[7]);
      std::vector<std::vector<uint16_t>> outputs;
      for (int i = 4; i < 8; ++i) {
        outputs.emplace_back(static_cast<size_t>(kFirst * row));
        gpu.ctx.device().Copy(outputs.back().data(), t[i]->data, outputs.back().size() * 2,
                              *gpu.stream);
      }
      gpu.stream->Synchronize();
      return outputs;
    };
    CHECK(first_of_outputs(std::nanf("")) == first_of_outputs(0));
  }
}

}  // namespace
}  // namespace omnitrain
