#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/runtime/context.h"

namespace omnitrain {

/// The dtype of an operand, relative to the compute dtype a case is run in.
enum class OperandType { kCompute, kMainGrad, kF64, kF32, kBF16, kF16, kInt32 };
DType ResolveDType(OperandType type, DType compute);

/// What an operand holds before a run. Random values are those of (case, operand), rounded to f32,
/// so that every compute dtype starts from the same numbers.
struct Fill {
  enum class Kind { kPoison, kConstant, kNormal, kList };
  Kind kind = Kind::kPoison;  // NaN: what is not written shows
  double scale = 1, shift = 0;
  std::vector<double> list;

  static Fill Poison() { return {}; }
  static Fill Constant(double value) { return {Kind::kConstant, 0, value, {}}; }
  /// shift + scale * standard normal.
  static Fill Normal(double scale = 1, double shift = 0) {
    return {Kind::kNormal, scale, shift, {}};
  }
  static Fill List(std::vector<double> values) { return {Kind::kList, 0, 0, std::move(values)}; }
};

/// One tensor of a case. What forward reads and what it writes may be one operand (in place).
struct Operand {
  std::string name;
  Shape shape;
  Fill fill;
  OperandType type = OperandType::kCompute;
  int64_t row_pad = 0;     // elements between rows, poisoned; nobody may touch them
  bool is_output = false;  // written by forward
  bool is_grad = false;    // written by backward
  std::string seed;        // of an output: the operand with its upstream gradient
  std::string grad;        // of an input: the operand that takes its gradient
  // How often an element is moved by each pass: 1 read or written, 2 read and written, a fraction
  // where rows are picked.
  double forward_moves = 0, backward_moves = 0;

  Operand& Type(OperandType t) { return type = t, *this; }
  Operand& Pad(int64_t elements) { return row_pad = elements, *this; }
  Operand& Seed(std::string s) { return seed = std::move(s), *this; }
  Operand& Grad(std::string g) { return grad = std::move(g), *this; }
  Operand& Moves(double forward, double backward) {
    return forward_moves = forward, backward_moves = backward, *this;
  }
};

/// Read by forward, by backward, or both.
Operand Input(std::string name, Shape shape, Fill fill = Fill::Normal());
/// Overwritten by forward (poisoned before).
Operand Output(std::string name, Shape shape);
/// Read and written by forward: += or in place.
Operand InOut(std::string name, Shape shape, Fill fill = Fill::Normal());
/// Written by backward: overwritten (poisoned before) or accumulated (random before).
Operand GradOut(std::string name, Shape shape, bool is_accumulated);

class CaseRun;

/// What a case is timed on; timed cases are too large for the checks.
enum class BenchOn { kNothing, kCpu, kGpu };

/// A row of the table: one op on one shape. It drives the gradient check, f32 against f64, one
/// device against another, and the bench.
struct OpCase {
  std::string op;     // "rms_norm"
  std::string label;  // "T=5 D=7 strided"
  BenchOn bench_on = BenchOn::kNothing;
  bool is_thread_invariant = true;  // the same bits for every number of threads
  double f32_rel_l2 = 2e-6;         // bound of f32 against f64, per operand
  double bf16_rel_l2 = 6e-3;        // bound of bf16 against f64 on the same inputs
  double f32_abs = 0;  // instead of f32_rel_l2, per element, where results cancel to nearly 0
  std::vector<Operand> operands;
  std::function<void(Context&, const CaseRun&)> forward;
  std::function<void(Context&, const CaseRun&)> backward;  // empty where there is none
  double forward_flops = 0, backward_flops = 0;
  // Another way to do forward on the same operands, and its name: what the bench times beside it.
  std::function<void(Context&, const CaseRun&)> baseline;
  std::string baseline_name;

  Operand& Add(Operand operand) { return operands.push_back(std::move(operand)), operands.back(); }
  bool is_bench() const { return bench_on != BenchOn::kNothing; }
  const Operand& Find(const std::string& name) const;
  std::string Name() const { return op + " " + label; }
};

/// The tensors of one case in one compute dtype on the device of a context.
class CaseRun {
 public:
  CaseRun(Context& ctx, const OpCase& op_case, DType compute)
      : CaseRun(ctx, op_case, compute, compute) {}
  /// Operands of the compute dtype start from values that `values` can hold: the f64 twin of a
  /// bf16 run has the same inputs.
  CaseRun(Context& ctx, const OpCase& op_case, DType compute, DType values);

  /// The operand on the device.
  Tensor operator[](const std::string& name) const;
  /// Puts every operand back to what it held at first.
  void Reset();
  void Forward() { op_case_.forward(ctx_, *this); }
  void Backward() { op_case_.backward(ctx_, *this); }
  void Baseline() { op_case_.baseline(ctx_, *this); }
  /// Changes (for good) what an operand holds at first. Takes effect at the next Reset.
  void SetInitial(const std::string& name, int64_t flat_idx, double value);
  double Initial(const std::string& name, int64_t flat_idx) const;
  /// A copy on the host, as it is now, padding included.
  std::vector<char> Bytes(const std::string& name) const;
  /// A view of such bytes (or of any with this layout) as the operand's tensor.
  Tensor HostView(const std::string& name, const std::vector<char>& bytes) const;
  /// Empty, or what changed that no pass may change: padding, or an operand that is only read.
  std::string FindTrespass() const;
  /// Bytes that a pass moves at least.
  double ForwardBytes() const;
  double BackwardBytes() const;

 private:
  struct Slot {
    const Operand* operand;
    Tensor tensor;  // on the device
    Buffer memory;
    std::vector<char> initial;
  };
  const Slot& Find(const std::string& name) const;

  Context& ctx_;
  const OpCase& op_case_;
  std::map<std::string, Slot> slots_;
};

}  // namespace omnitrain
