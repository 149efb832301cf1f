#pragma once

#include "core/spec/job_spec.h"
#include "core/tensor/dtype.h"

namespace omnitrain {

/// The dtype that a precision computes in. Gradients, master weights and optimizer state of bf16
/// are f32.
inline DType ComputeDType(Precision precision) {
  switch (precision) {
    case Precision::kFp64:
      return DType::kF64;
    case Precision::kFp32:
      return DType::kF32;
    case Precision::kBf16:
      return DType::kBF16;
  }
  return DType::kF32;
}

}  // namespace omnitrain
