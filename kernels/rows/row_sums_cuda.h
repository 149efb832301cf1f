#pragma once

#include "core/runtime/context.h"

namespace omnitrain::cuda {

/// dst[index[i]] += weight[i] src[i / fanout] for all i of index, fanout = entries of index per row
/// of src; entries of -1 are passed over. Rows of one index are added in order: entries are sorted
/// by index (stably), then one block adds up each run. The GPU trusts the indices.
/// Shapes: src [N, D]; index, weight [N] or [N, fanout], dense; weight of src's dtype or absent
/// (1); dst [S, D] f32.  Uses the context's scratch.  Deterministic.
void AddRowSums(Context& ctx, const Tensor& src, const Tensor& index, const Tensor& weight,
                const Tensor& dst);

}  // namespace omnitrain::cuda
