#include <omp.h>

#include <cmath>

#include "kernels/cases/op_cases.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

class Bench {
 public:
  Bench() : device_(NewCpuDevice()), stream_(device_->NewStream()), ctx_(*device_, *stream_) {}
  Context& ctx() { return ctx_; }

 private:
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  Context ctx_;
};

/// sum over outputs of <seed, output>: the scalar whose gradient backward gives.
double Objective(const CaseRun& run, const OpCase& c) {
  double sum = 0;
  for (const Operand& o : c.operands) {
    if (o.seed.empty()) continue;
    const std::vector<char> bytes = run.Bytes(o.name);
    const Tensor output = run.HostView(o.name, bytes);
    for (int64_t i = 0; i < o.shape.num_elements(); ++i) {
      sum += run.Initial(o.seed, i) * ElementAt(output, i);
    }
  }
  return sum;
}

double ObjectiveWith(CaseRun* run, const OpCase& c, const std::string& name, int64_t i, double x) {
  const double kept = run->Initial(name, i);
  run->SetInitial(name, i, x);
  run->Reset();
  run->Forward();
  const double value = Objective(*run, c);
  run->SetInitial(name, i, kept);
  return value;
}

void CheckGradient(Context& ctx, const OpCase& c) {
  CaseRun run(ctx, c, DType::kF64);
  run.Forward();
  run.Backward();
  CHECK(run.FindTrespass() == "");
  std::map<std::string, std::vector<char>> grads;  // before the runs below overwrite them
  for (const Operand& o : c.operands) {
    if (o.is_grad) grads[o.name] = run.Bytes(o.name);
  }
  for (const Operand& input : c.operands) {
    if (input.grad.empty()) continue;
    const Tensor grad = run.HostView(input.grad, grads.at(input.grad));
    // What an accumulated gradient held before, unless the same memory was its seed (in place).
    const Operand& target = c.Find(input.grad);
    const bool is_sum = target.fill.kind != Fill::Kind::kPoison && input.seed != input.grad;
    // All of a small operand, a sample of a large one.
    const int64_t size = input.shape.num_elements();
    const int64_t step = std::max<int64_t>(1, size / 61);
    std::vector<double> got, want;
    double largest = 1;
    for (int64_t i = 0; i < size; i += step) {
      const double x = run.Initial(input.name, i), h = 1e-5 * std::max(1.0, std::fabs(x));
      got.push_back(ElementAt(grad, i) - (is_sum ? run.Initial(input.grad, i) : 0));
      want.push_back((ObjectiveWith(&run, c, input.name, i, x + h) -
                      ObjectiveWith(&run, c, input.name, i, x - h)) /
                     (2 * h));
      largest = std::max(largest, std::fabs(want.back()));
    }
    INFO("gradient of " << input.name);
    CHECK(Compare(got, want, {2e-8 * largest * std::sqrt(static_cast<double>(size) + 1)}));
  }
}

/// Forward, then backward; the bytes of everything that is written.
std::map<std::string, std::vector<char>> WrittenBytes(Context& ctx, const OpCase& c, DType dtype) {
  CaseRun run(ctx, c, dtype);
  run.Forward();
  if (c.backward) run.Backward();
  CHECK(run.FindTrespass() == "");
  std::map<std::string, std::vector<char>> written;
  for (const Operand& o : c.operands) {
    if (o.is_output || o.is_grad) written[o.name] = run.Bytes(o.name);
  }
  return written;
}

Bound F32Bound(const OpCase& c, const Tensor& reference) {
  if (c.f32_abs > 0) return {c.f32_abs};
  double largest = 0;
  for (int64_t i = 0; i < reference.num_elements(); ++i) {
    largest = std::max(largest, std::fabs(ElementAt(reference, i)));
  }
  return {10 * c.f32_rel_l2 * largest, 0, c.f32_rel_l2};
}

TEST_CASE("Gradients agree with central differences in f64") {
  Bench bench;
  for (const OpCase& c : AllOpCases()) {
    if (c.is_bench() || !c.backward) continue;
    INFO(c.Name());
    CheckGradient(bench.ctx(), c);
  }
}

TEST_CASE("f32 agrees with f64, and every element of an output is written") {
  Bench bench;
  for (const OpCase& c : AllOpCases()) {
    if (c.is_bench()) continue;
    const CaseRun f32(bench.ctx(), c, DType::kF32), f64(bench.ctx(), c, DType::kF64);
    const auto got = WrittenBytes(bench.ctx(), c, DType::kF32);
    const auto want = WrittenBytes(bench.ctx(), c, DType::kF64);
    for (const auto& [name, bytes] : got) {
      INFO(c.Name() << " " << name);
      const Tensor reference = f64.HostView(name, want.at(name));
      CHECK(Compare(f32.HostView(name, bytes), reference, F32Bound(c, reference)));
    }
  }
}

TEST_CASE("The same bits again, and for every number of threads") {
  Bench bench;
  const int num_threads = omp_get_max_threads();
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const OpCase& c : AllOpCases()) {
      if (c.is_bench()) continue;
      INFO(c.Name() << " " << DTypeName(dtype));
      omp_set_num_threads(1);
      const auto first = WrittenBytes(bench.ctx(), c, dtype);
      CHECK(WrittenBytes(bench.ctx(), c, dtype) == first);
      omp_set_num_threads(3);
      if (c.is_thread_invariant) CHECK(WrittenBytes(bench.ctx(), c, dtype) == first);
      omp_set_num_threads(num_threads);
    }
  }
}

}  // namespace
}  // namespace omnitrain
