// Every op on the GPU against its f64 twin on the CPU. Needs a GPU: not part of `bazel test //...`.
#include <algorithm>
#include <cmath>
#include <map>

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

}  // namespace
}  // namespace omnitrain
