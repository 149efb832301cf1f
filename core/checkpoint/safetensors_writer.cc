#include "core/checkpoint/safetensors_writer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/json.h"
#include "core/checkpoint/convert.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/safetensors.h"

namespace omnitrain {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 18;  // 1 MiB of f32: stays in the second cache

int64_t FileBytes(const TensorSource& tensor) {
  return tensor.num_elements() * static_cast<int64_t>(DTypeBytes(tensor.dtype));
}

std::string MakeHeader(const std::string& path, const std::vector<TensorSource>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  // Assembled by hand: the ordered Json looks every new key up in all the others.
  std::string header = "{\"__metadata__\":" + Json(metadata).dump();
  int64_t offset = 0;
  for (const TensorSource& tensor : tensors) {
    const int64_t end = offset + FileBytes(tensor);
    std::string name;
    try {
      name = Json(tensor.name).dump();
    } catch (const Json::exception& e) {
      Fail(ErrorCode::kCheckpoint, "{}: a tensor name is not UTF-8: {}", path, e.what());
    }
    header += fmt::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name,
                          StoredDTypeName(ToStoredDType(tensor.dtype)), Json(tensor.shape).dump(),
                          offset, end);
    offset = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

void WriteTensor(const std::string& path, const TensorSource& tensor, OutputFile* file) {
  const int64_t count = tensor.num_elements();
  const int64_t chunk = std::min(count, kChunkElements);
  const int64_t bytes = static_cast<int64_t>(DTypeBytes(tensor.dtype));
  std::vector<char> source(static_cast<size_t>(chunk) * DTypeBytes(tensor.source_dtype));
  std::vector<char> target(
      tensor.source_dtype == tensor.dtype ? 0 : static_cast<size_t>(chunk * bytes));
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t n = std::min(chunk, count - begin);
    tensor.read(begin, n, source.data());
    if (tensor.source_dtype == tensor.dtype) {
      file->Write(source.data(), n * bytes);
      continue;
    }
    const int64_t converted =
        ConvertElements(tensor.source_dtype, source.data(), tensor.dtype, target.data(), n);
    OT_REQUIRE(converted == n, ErrorCode::kCheckpoint, "{}: tensor {}: element {} does not fit {}",
               path, tensor.name, begin + converted, DTypeName(tensor.dtype));
    file->Write(target.data(), n * bytes);
  }
}

}  // namespace

int64_t TensorSource::num_elements() const {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

TensorSource MemorySource(std::string name, DType dtype, std::vector<int64_t> shape,
                          const void* data) {
  const char* bytes = static_cast<const char*>(data);
  const size_t size = DTypeBytes(dtype);
  return {std::move(name), dtype, std::move(shape), dtype,
          [bytes, size](int64_t begin, int64_t count, void* out) {
            std::memcpy(out, bytes + static_cast<size_t>(begin) * size,
                        static_cast<size_t>(count) * size);
          }};
}

void WriteSafetensors(const std::string& path, std::vector<TensorSource> tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> names;
  for (const TensorSource& tensor : tensors) {
    OT_REQUIRE(IsConvertible(tensor.source_dtype, tensor.dtype), ErrorCode::kCheckpoint,
               "{}: tensor {}: {} cannot be written as {}", path, tensor.name,
               DTypeName(tensor.source_dtype), DTypeName(tensor.dtype));
    names.push_back(tensor.name);
  }
  names.push_back("__metadata__");
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  OT_REQUIRE(twice == names.end(), ErrorCode::kCheckpoint, "{}: tensor {} is given twice", path,
             *twice);
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TensorSource& a, const TensorSource& b) {
                     return DTypeBytes(a.dtype) > DTypeBytes(b.dtype);
                   });

  const std::string header = MakeHeader(path, tensors, metadata);
  const std::string temporary = path + ".part";
  OutputFile file(temporary);
  unsigned char prefix[8];
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  file.Write(prefix, 8);
  file.Write(header.data(), static_cast<int64_t>(header.size()));
  for (const TensorSource& tensor : tensors) WriteTensor(path, tensor, &file);
  file.Finish();
  ReplaceAtomically(temporary, path);
}

}  // namespace omnitrain
