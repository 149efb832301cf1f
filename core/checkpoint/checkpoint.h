#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/dtype.h"
#include "core/tensor/element_run.h"
#include "core/tensor/tensor.h"

namespace omnitrain {

// Training checkpoints: `RUN/checkpoints/step-00000100/` with `manifest.json` and a data file per
// rank, on a file system that all ranks see, and `RUN/checkpoints/latest`, a link to the one
// written last. What a rank writes is named by global tensors and runs of their elements, so that
// ranks of any other number and layout can read it back (checkpoint_reader.h).
//
// No communication here: the caller puts barriers between the phases of a save.
//   rank 0      BeginCheckpoint
//   all ranks   WriteRankFile; its text is gathered to rank 0
//   rank 0      CommitCheckpoint, or AbortCheckpoint when a rank has failed
// Errors: kCheckpoint with the path and the system's reason, a full disk among them. Until the
// commit has renamed `step-N.part`, older checkpoints and `latest` are untouched; after it, the new
// one is whole.

/// Elements of a tensor.
struct Region {
  std::string name;  // the tensor's, the same on all ranks
  DType dtype = DType::kF32;
  Shape global_shape;
  std::vector<ElementRun> runs;  // in the whole tensor
  const void* data = nullptr;    // these elements, one behind the other, on the host
};

/// Makes `run_out/checkpoints/step-N.part`, after removing what crashed saves left behind. Returns
/// its path. Requires: no other save of this run is under way.
std::string BeginCheckpoint(const std::string& run_out, int64_t step);

/// The path that BeginCheckpoint returns, for ranks that did not call it.
std::string PartDirectory(const std::string& run_out, int64_t step);

/// Writes and syncs this rank's file. Over all ranks, every element of every tensor is to be
/// written exactly once. Returns its entry of the manifest, JSON text. On failure the whole .part
/// directory is removed, which frees the disk.
std::string WriteRankFile(const std::string& part_dir, int rank,
                          const std::vector<Region>& regions);

/// Writes the manifest, gives the directory its final name, points `latest` at it, and removes
/// complete checkpoints until `keep_last` remain, this one and those written last (0 keeps all).
/// Damaged ones are left to be looked at. Shapes: entries [world size], in rank order. `state` is
/// JSON text of the trainer's own. Returns the final path. On failure the .part directory is
/// removed. Errors: kInternal when the entries do not cover each tensor exactly once.
std::string CommitCheckpoint(const std::string& part_dir, const std::vector<std::string>& entries,
                             const std::string& state, int keep_last);

/// Removes a save that failed, as far as possible.
void AbortCheckpoint(const std::string& part_dir) noexcept;

/// The checkpoint to resume from: the one written last (not always that of the largest step: a run
/// may have been resumed at an earlier one) whose manifest is good and whose files have their
/// sizes; damaged ones are logged and passed over. Empty when there is none.
std::string FindLatest(const std::string& run_out);

}  // namespace omnitrain
