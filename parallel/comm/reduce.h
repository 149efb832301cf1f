#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor/dtype.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// out[i] = parts[0][i] (op) parts[1][i] (op) ... in that order, for `count` elements of host
/// memory.
/// Dtype: f32 f64 i32 i64 u8; bf16 accumulates in fp32 and rounds once.  A NaN in any part gives
/// NaN, under kMax too.  out may be parts[0], or overlap no part.
/// Deterministic: element by element, the same whatever the count and the number of threads.
void ReduceInOrder(DType dtype, ReduceOp op, const std::vector<const void*>& parts, void* out,
                   int64_t count);

}  // namespace omnitrain
