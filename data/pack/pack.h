#pragma once

#include <cstdint>
#include <vector>

#include "data/batch/batch.h"
#include "data/batch/positions.h"
#include "data/batch/sample.h"

namespace omnitrain {

enum class TooLongPolicy { kSkip, kTruncate };

/// Makes a sample fit max_rows. kTruncate cuts text behind the last item, never inside one. False:
/// the sample is to be skipped; it is too long, or its items alone are, or nothing that is to be
/// learned would be left.
bool FitSample(EncodedSample* sample, int64_t max_rows, TooLongPolicy policy);

struct PackOptions {
  PositionOptions positions;
  int patch_dim = 0;      // floats of a patch
  int window_cells = 0;   // side of the encoder's attention windows in merged cells; 0: none
  int pad_multiple = 1;   // the tail is padded to it, as a segment of its own
  int32_t pad_token = 0;  // of those rows
};

/// Packs samples, in the given order, all but their pixels: patches are allocated, and zero. None:
/// an empty micro_batch without padding. Labels are shifted within each sample: a row predicts the
/// next row of its sample, the last none.
MicroBatch BuildMicroBatch(const std::vector<const EncodedSample*>& samples,
                           const PackOptions& options);

/// Brings patches [first_patch, first_patch + num_patches), whole items in merge-block order, into
/// the order of the encoder's windows; nothing to do without windows.
void OrderPatches(int64_t first_patch, int64_t num_patches, ItemBatch* items);

/// Takes a sample out of training when its pixels cannot be had: no labels, zero patches. Its rows
/// and grids stay, so that the plan of the step remains what all ranks agreed on; attention does
/// not cross samples, so the others do not notice. `sample`: its place in the micro_batch; its
/// patches are [first_patch, first_patch + num_patches). Returns the number of labels it had.
int64_t DropSample(MicroBatch* batch, size_t sample, int64_t first_patch, int64_t num_patches);

/// Row and column of every patch of a grid on its un-merged grid, in merge-block order, all frames.
/// Appends [num_patches, 2].
void AppendCoordinates(const ItemGrid& grid, int merge_size, std::vector<int32_t>* coordinates);

}  // namespace omnitrain
