#pragma once

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

// Moving and mixing rows. Dtype: src and dst alike (the compute dtype) unless said otherwise;
// indices int32 on the device of the tensors. Index -1 means "no row". Zero rows are legal.
// Errors: an index below -1 or past the last row is kInternal with its place (CPU).

/// dst[i] (= or +=) src[index[i]]; where index[i] is -1, dst[i] = 0 (or unchanged with
/// kAccumulate). Shapes: src [S, D], index [N], dst [N, D]; dim 0 may be strided.  Use: embedding
/// lookup.
void GatherRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst);

/// dst[index[i]] (= or +=) src[i].  Requires: the indices that are not -1 are distinct.
/// Shapes: src [N, D], index [N], dst [S, D].  Use: encoder rows into the LLM's rows.
void ScatterRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst);

/// dst[index[i]] += src[i], indices may repeat.  dst has the main-gradient dtype (f32 for bf16 and
/// f32, f64 for f64). Shapes: src [N, D], index [N], dst [S, D].  Deterministic: rows of one index
/// are added in order.  Use: embedding grad.
void ScatterAddRows(Context& ctx, const Tensor& src, const Tensor& index, Tensor dst);

/// dst[i] (= or +=) sum_k weight[i, k] table[index[i, k]].
/// Shapes: table [S, D]; index [N, 4] int32; weight [N, 4] in the compute dtype; dst [N, D].
/// Use: bilinear resampling of learned positions (Qwen3-VL).
void InterpolateRows(Context& ctx, const Tensor& table, const Tensor& index, const Tensor& weight,
                     Write write, Tensor dst);

/// dtable[index[i, k]] += weight[i, k] d[i], the transpose of InterpolateRows; dtable in the
/// main-gradient dtype. Deterministic.
void InterpolateRowsBackward(Context& ctx, const Tensor& d, const Tensor& index,
                             const Tensor& weight, Tensor dtable);

}  // namespace omnitrain
