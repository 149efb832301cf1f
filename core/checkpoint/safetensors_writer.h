#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/tensor/dtype.h"

namespace omnitrain {

/// A tensor to be written, pulled piece by piece, so that neither a tensor nor a file need fit in
/// memory.
struct TensorSource {
  std::string name;
  DType dtype = DType::kF32;  // in the file
  std::vector<int64_t> shape;
  DType source_dtype = DType::kF32;  // what `read` delivers
  /// Fills out [count] with elements [begin, begin + count), flat in row-major order. Called with
  /// ascending ranges that join, the first from 0; not at all for a tensor without elements.
  std::function<void(int64_t begin, int64_t count, void* out)> read;

  int64_t num_elements() const;
};

/// A source that reads dense memory of the file's own dtype, which must outlive the writing.
TensorSource MemorySource(std::string name, DType dtype, std::vector<int64_t> shape,
                          const void* data);

/// Writes a safetensors file: header padded to 8 bytes, tensors by descending element size (each is
/// thereby aligned) and else in the order given. Sources are read one after another in that order.
/// The file appears whole or not at all: it is written as `path`.part and renamed when durable;
/// after any failure, a throwing source included, the .part is removed and an old file at `path`
/// stands. Errors: kCheckpoint with the path and the system's reason; a name given twice; a source
/// that delivers integers for a float tensor or the reverse.
void WriteSafetensors(const std::string& path, std::vector<TensorSource> tensors,
                      const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace omnitrain
