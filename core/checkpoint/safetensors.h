#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/checkpoint/file.h"
#include "core/tensor/dtype.h"

namespace omnitrain {

/// Element types that a safetensors file may hold; the program computes with fewer (DType).
enum class StoredDType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool
};

/// The name in the file: "F32", "F8_E4M3", "BOOL".
const char* StoredDTypeName(StoredDType dtype);
int64_t StoredDTypeBytes(StoredDType dtype);
/// What the elements are read as without conversion (booleans as u8); none for types that the
/// program does not read.
std::optional<DType> ToDType(StoredDType dtype);
StoredDType ToStoredDType(DType dtype);

/// "[17, 64]"; any rank.
std::string ShapeText(const std::vector<int64_t>& shape);

struct TensorEntry {
  StoredDType dtype = StoredDType::kF32;
  std::vector<int64_t> shape;  // outermost first, any rank; rank 0 holds one element
  int64_t num_elements = 0;
  int64_t file_offset = 0;  // of the first byte, from the start of the file
  int64_t num_bytes = 0;
};

/// A safetensors file, open for reading. Opening reads and checks the header only: its length, the
/// JSON, unique keys, dtype times shape against the bytes of each tensor, data without holes or
/// overlaps that ends with the file. Reads may run in several threads at once.
/// Errors: kCheckpoint, naming the file and the tensor.
/// Source: the format description of huggingface/safetensors.
class SafetensorsFile {
 public:
  static SafetensorsFile Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  /// In the order of their data.
  const std::vector<std::string>& names() const { return names_; }
  /// `__metadata__`.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  bool Has(const std::string& name) const { return entries_.count(name) != 0; }
  /// Errors: a name that the file does not hold.
  const TensorEntry& Find(const std::string& name) const;
  /// Errors: a tensor that is absent or of another shape; the message has both shapes.
  void RequireShape(const std::string& name, const std::vector<int64_t>& shape) const;

  /// Elements [begin, begin + count) of the tensor, flat in row-major order, as `dtype`: floats are
  /// rounded to nearest even, integers must fit.
  /// Shapes: out [count].
  /// Errors: floats asked for as integers or the reverse; 8-bit floats; an integer that does not
  /// fit; a file that became shorter since it was opened.
  void ReadAs(const std::string& name, DType dtype, void* out, int64_t begin, int64_t count) const;

  /// A whole tensor, for the scalar types that DTypeOf knows.
  template <typename T>
  std::vector<T> ReadAll(const std::string& name) const {
    std::vector<T> values(static_cast<size_t>(Find(name).num_elements));
    ReadAs(name, DTypeOf<T>::value, values.data(), 0, static_cast<int64_t>(values.size()));
    return values;
  }

 private:
  explicit SafetensorsFile(const std::string& path) : file_(path) {}
  void ParseHeader();
  void CheckDataLayout(int64_t data_begin);

  InputFile file_;
  std::vector<std::string> names_;
  std::map<std::string, std::string> metadata_;
  std::unordered_map<std::string, TensorEntry> entries_;
};

}  // namespace omnitrain
