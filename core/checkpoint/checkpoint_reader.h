#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/checkpoint/file.h"
#include "core/checkpoint/manifest.h"

namespace omnitrain {

constexpr const char* kManifestName = "manifest.json";

/// What is checked beyond the manifest and the sizes of its files.
enum class Verify {
  kSizes,
  kHashes,  // each file against its hash, before the first byte of it is used
};

/// A training checkpoint, open for reading by any number of ranks, whatever number wrote it. Reads
/// may run in several threads at once.
/// Errors: kCheckpoint, naming the file.
class CheckpointReader {
 public:
  static CheckpointReader Open(const std::string& directory, Verify verify = Verify::kSizes);

  int64_t step() const { return manifest_.step; }
  /// Counts the saves of a run.
  int64_t save_idx() const { return manifest_.save_idx; }
  /// Of the run that wrote it.
  int world_size() const { return manifest_.world_size; }
  /// The trainer's own, JSON text.
  const std::string& state() const { return manifest_.state; }
  const std::vector<CheckpointTensor>& tensors() const { return manifest_.tensors; }

  bool Has(const std::string& name) const { return indices_.count(name) != 0; }
  /// Errors: a name that the checkpoint does not hold.
  const CheckpointTensor& Find(const std::string& name) const;

  /// Elements of the whole tensor, in the order of `runs`, gathered from whichever files hold them,
  /// as `dtype` (convert.h). Shapes: out [NumElements(runs)].
  void Read(const std::string& name, const std::vector<ElementRun>& runs, DType dtype,
            void* out) const;
  /// Elements [begin, end), flat in row-major order.
  void Read(const std::string& name, int64_t begin, int64_t end, DType dtype, void* out) const {
    Read(name, std::vector<ElementRun>{{begin, end - begin}}, dtype, out);
  }

 private:
  // Where a rectangle of a tensor, seen as a matrix of shape[0] rows, lies.
  struct Piece {
    ElementRect rect;
    int file = 0;
    int64_t offset = 0;  // bytes, of its first element
  };
  // Opened when first read: a rank seldom needs the files of all others.
  struct DataFile {
    std::mutex mutex;
    std::unique_ptr<InputFile> file;
  };

  int IndexOf(const std::string& name) const;
  const InputFile& FileAt(int index) const;
  // The elements that `piece` and `wanted` share, into `out`, which starts with those of `wanted`.
  void ReadShared(const CheckpointTensor& tensor, const Piece& piece, const ElementRect& wanted,
                  DType dtype, char* out) const;

  std::string directory_;
  Verify verify_ = Verify::kSizes;
  Manifest manifest_;
  std::unordered_map<std::string, int> indices_;
  std::vector<std::vector<Piece>> pieces_;  // [tensor], by ascending row_begin
  std::vector<std::unique_ptr<DataFile>> files_;
};

}  // namespace omnitrain
