#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/dtype.h"
#include "core/tensor/element_run.h"
#include "core/tensor/tensor.h"

namespace omnitrain {

/// A tensor of a checkpoint: the whole, whatever ranks hold it.
struct CheckpointTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

/// What one rank wrote of one tensor: its runs, one after another from `offset` bytes on.
struct ManifestRegion {
  int tensor = 0;  // index into Manifest::tensors
  int64_t offset = 0;
  std::vector<ElementRun> runs;
};

struct ManifestFile {
  std::string name;
  int64_t bytes = 0;
  std::string hash;  // xxh3, 128 bits, 32 hexadecimal digits
  std::vector<ManifestRegion> regions;
};

/// What a checkpoint consists of. As text: `{"checksum": H, "content": {...}}`, H being the xxh3 of
/// the content as printed, so that a damaged manifest is told from a good one. A run is printed as
/// [begin, length] or, of several, [begin, length, stride, count].
struct Manifest {
  int64_t step = 0;
  int64_t save_idx = 0;  // counts the saves of a run: tells, without clocks, which came later
  int world_size = 0;
  std::vector<CheckpointTensor> tensors;
  std::vector<ManifestFile> files;
  std::string state;  // JSON, the trainer's own

  std::string ToText() const;
  /// Errors: kCheckpoint, naming `path`.
  static Manifest FromText(const std::string& path, const std::string& text);

  /// Adds what a rank wrote; `entry` is a rank's text from RankEntry.
  void AddEntry(const std::string& entry);
  /// Empty when every element of every tensor is in exactly one place inside its file; otherwise
  /// what is wrong.
  std::string FindFault() const;
};

/// One rank's file with the tensors that it has parts of (region.tensor indexes `tensors`), as the
/// text that travels to rank 0.
std::string RankEntry(const std::vector<CheckpointTensor>& tensors, const ManifestFile& file);

}  // namespace omnitrain
