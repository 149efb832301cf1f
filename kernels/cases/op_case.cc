#include "kernels/cases/op_case.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/rng.h"
#include "kernels/common/operands.h"

namespace omnitrain {
namespace {

int64_t RowElements(const Shape& shape) { return shape.rank() == 0 ? 1 : shape.row_elements(); }

/// Elements of an operand with its padding.
int64_t AllocatedElements(const Operand& o) {
  const int64_t rows = o.shape.rank() == 0 ? 1 : o.shape[0];
  return rows * (RowElements(o.shape) + o.row_pad);
}

void Store(DType dtype, double value, void* data, int64_t i) {
  switch (dtype) {
    case DType::kF64:
      static_cast<double*>(data)[i] = value;
      return;
    case DType::kF32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      return;
    case DType::kBF16:
      static_cast<BFloat16*>(data)[i] = ToBFloat16(static_cast<float>(value));
      return;
    case DType::kF16:
      static_cast<Float16*>(data)[i] = ToFloat16(static_cast<float>(value));
      return;
    case DType::kI32:
      static_cast<int32_t*>(data)[i] = std::isnan(value) ? -1000000 : static_cast<int32_t>(value);
      return;
    default:
      OT_CHECK(false, "a case of {}", DTypeName(dtype));
  }
}

double ValueOf(const Fill& fill, uint64_t stream, int64_t i) {
  switch (fill.kind) {
    case Fill::Kind::kPoison:
      return std::numeric_limits<double>::quiet_NaN();
    case Fill::Kind::kConstant:
      return fill.shift;
    case Fill::Kind::kNormal: {
      // Large operands repeat: their numbers are timed, not looked at.
      constexpr int64_t kPeriod = 65537;
      const auto index = static_cast<uint64_t>(i % kPeriod);
      return static_cast<float>(fill.shift + fill.scale * RandomNormal(17, stream, index));
    }
    case Fill::Kind::kList:
      return fill.list[static_cast<size_t>(i)];
  }
  return 0;
}

double Rounded(double value, DType to) {
  return to == DType::kBF16 ? ToFloat(ToBFloat16(static_cast<float>(value))) : value;
}

std::vector<char> InitialBytes(const OpCase& c, const Operand& o, DType dtype, DType values) {
  if (o.type != OperandType::kCompute) values = dtype;
  const int64_t width = RowElements(o.shape), pitch = width + o.row_pad;
  const uint64_t stream = StreamId((c.Name() + "/" + o.name).c_str());
  std::vector<char> bytes(static_cast<size_t>(AllocatedElements(o)) * DTypeBytes(dtype));
  OT_CHECK(o.fill.kind != Fill::Kind::kList ||
               static_cast<int64_t>(o.fill.list.size()) == o.shape.num_elements(),
           "{}: {} values for {} {}", c.Name(), o.fill.list.size(), o.name, o.shape.ToString());
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < AllocatedElements(o); ++i) {
    const bool is_pad = i % pitch >= width;
    Store(dtype,
          is_pad ? std::numeric_limits<double>::quiet_NaN()
                 : Rounded(ValueOf(o.fill, stream, i / pitch * width + i % pitch), values),
          bytes.data(), i);
  }
  return bytes;
}

}  // namespace

DType ResolveDType(OperandType type, DType compute) {
  switch (type) {
    case OperandType::kCompute:
      return compute;
    case OperandType::kMainGrad:
      return MainGradDType(compute);
    case OperandType::kF64:
      return DType::kF64;
    case OperandType::kF32:
      return DType::kF32;
    case OperandType::kBF16:
      return DType::kBF16;
    case OperandType::kF16:
      return DType::kF16;
    case OperandType::kInt32:
      return DType::kI32;
  }
  return compute;
}

Operand Input(std::string name, Shape shape, Fill fill) {
  Operand o;
  o.name = std::move(name);
  o.shape = shape;
  o.fill = std::move(fill);
  return o;
}

Operand Output(std::string name, Shape shape) {
  Operand o = Input(std::move(name), shape, Fill::Poison());
  o.is_output = true;
  return o;
}

Operand InOut(std::string name, Shape shape, Fill fill) {
  Operand o = Input(std::move(name), shape, std::move(fill));
  o.is_output = true;
  return o;
}

Operand GradOut(std::string name, Shape shape, bool is_accumulated) {
  Operand o = Input(std::move(name), shape, is_accumulated ? Fill::Normal() : Fill::Poison());
  o.is_grad = true;
  return o;
}

const Operand& OpCase::Find(const std::string& name) const {
  for (const Operand& o : operands) {
    if (o.name == name) return o;
  }
  OT_CHECK(false, "{}: no operand {}", Name(), name);
  return operands[0];
}

CaseRun::CaseRun(Context& ctx, const OpCase& op_case, DType compute, DType values)
    : ctx_(ctx), op_case_(op_case) {
  for (const Operand& o : op_case.operands) {
    const DType dtype = ResolveDType(o.type, compute);
    Slot slot;
    slot.operand = &o;
    slot.initial = InitialBytes(op_case, o, dtype, values);
    slot.memory = Buffer(ctx.device(), slot.initial.size());
    slot.tensor = Tensor(slot.memory.data(), dtype, o.shape, ctx.device().kind());
    slot.tensor.row_stride += o.row_pad;
    slots_[o.name] = std::move(slot);
  }
  Reset();
}

const CaseRun::Slot& CaseRun::Find(const std::string& name) const {
  const auto it = slots_.find(name);
  OT_CHECK(it != slots_.end(), "{}: no operand {}", op_case_.Name(), name);
  return it->second;
}

Tensor CaseRun::operator[](const std::string& name) const { return Find(name).tensor; }

void CaseRun::Reset() {
  for (auto& [name, slot] : slots_) {
    ctx_.device().Copy(slot.memory.data(), slot.initial.data(), slot.initial.size(), ctx_.stream());
  }
  ctx_.stream().Synchronize();
}

void CaseRun::SetInitial(const std::string& name, int64_t flat_idx, double value) {
  auto& slot = const_cast<Slot&>(Find(name));
  const int64_t width = RowElements(slot.operand->shape);
  Store(slot.tensor.dtype, value, slot.initial.data(),
        flat_idx / width * slot.tensor.row_stride + flat_idx % width);
}

double CaseRun::Initial(const std::string& name, int64_t flat_idx) const {
  const Slot& slot = Find(name);
  const int64_t width = RowElements(slot.operand->shape);
  const int64_t i = flat_idx / width * slot.tensor.row_stride + flat_idx % width;
  if (slot.tensor.dtype == DType::kF64) {
    return reinterpret_cast<const double*>(slot.initial.data())[i];
  }
  OT_CHECK(slot.tensor.dtype == DType::kF32, "{}: {} {}", op_case_.Name(), name,
           Describe(slot.tensor));
  return reinterpret_cast<const float*>(slot.initial.data())[i];
}

std::vector<char> CaseRun::Bytes(const std::string& name) const {
  const Slot& slot = Find(name);
  std::vector<char> bytes(slot.initial.size());
  ctx_.device().Copy(bytes.data(), slot.memory.data(), bytes.size(), ctx_.stream());
  ctx_.stream().Synchronize();
  return bytes;
}

Tensor CaseRun::HostView(const std::string& name, const std::vector<char>& bytes) const {
  const Slot& slot = Find(name);
  OT_CHECK(bytes.size() == slot.initial.size(), "{}: {} bytes of {}", name, bytes.size(),
           slot.initial.size());
  Tensor view = slot.tensor;
  view.data = const_cast<char*>(bytes.data());
  view.device = DeviceKind::kCpu;
  return view;
}

std::string CaseRun::FindTrespass() const {
  for (const auto& [name, slot] : slots_) {
    const std::vector<char> now = Bytes(name);
    const Operand& o = *slot.operand;
    const bool is_written = o.is_output || o.is_grad;
    const size_t scalar = DTypeBytes(slot.tensor.dtype);
    const size_t pitch = static_cast<size_t>(slot.tensor.row_stride) * scalar;
    const size_t skip = is_written ? static_cast<size_t>(RowElements(o.shape)) * scalar : 0;
    for (size_t row = 0; row < now.size() && pitch > skip; row += pitch) {
      if (std::memcmp(&now[row + skip], &slot.initial[row + skip], pitch - skip) != 0) {
        return fmt::format("{} of {} changed in row {}", is_written ? "padding" : "input", name,
                           row / pitch);
      }
    }
  }
  return "";
}

double CaseRun::ForwardBytes() const {
  double bytes = 0;
  for (const auto& [name, slot] : slots_) {
    bytes += slot.operand->forward_moves * static_cast<double>(slot.tensor.num_bytes());
  }
  return bytes;
}

double CaseRun::BackwardBytes() const {
  double bytes = 0;
  for (const auto& [name, slot] : slots_) {
    bytes += slot.operand->backward_moves * static_cast<double>(slot.tensor.num_bytes());
  }
  return bytes;
}

}  // namespace omnitrain
