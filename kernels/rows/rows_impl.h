#pragma once

#include "kernels/rows/rows.h"

namespace omnitrain::cpu {

// The public functions behind their checks; each refuses an index out of range.

void GatherRows(const Tensor& src, const Tensor& index, Write write, Tensor dst);
void ScatterRows(const Tensor& src, const Tensor& index, Write write, Tensor dst);
void ScatterAddRows(const Tensor& src, const Tensor& index, Tensor dst);
void InterpolateRows(const Tensor& table, const Tensor& index, const Tensor& weight, Write write,
                     Tensor dst);
void InterpolateRowsBackward(const Tensor& d, const Tensor& index, const Tensor& weight,
                             Tensor dtable);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same on the GPU, for f32 and bf16; indices are trusted.

void GatherRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst);
void ScatterRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst);
void ScatterAddRows(Context& ctx, const Tensor& src, const Tensor& index, Tensor dst);
void InterpolateRows(Context& ctx, const Tensor& table, const Tensor& index, const Tensor& weight,
                     Write write, Tensor dst);
void InterpolateRowsBackward(Context& ctx, const Tensor& d, const Tensor& index,
                             const Tensor& weight, Tensor dtable);

}  // namespace omnitrain::cuda
