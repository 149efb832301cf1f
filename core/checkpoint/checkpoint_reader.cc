#include "core/checkpoint/checkpoint_reader.h"

#include <algorithm>
#include <filesystem>

#include "core/base/json.h"
#include "core/checkpoint/convert.h"
#include "core/checkpoint/hash.h"

namespace omnitrain {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBufferBytes = int64_t{1} << 20;

void CheckHash(const InputFile& file, const std::string& expected) {
  Hasher hasher;
  std::vector<char> buffer(static_cast<size_t>(std::min(kBufferBytes, file.size())));
  for (int64_t offset = 0; offset < file.size(); offset += kBufferBytes) {
    const int64_t n = std::min(kBufferBytes, file.size() - offset);
    file.Read(offset, n, buffer.data());
    hasher.Add(buffer.data(), n);
  }
  const std::string digest = hasher.Digest();
  OT_REQUIRE(digest == expected, ErrorCode::kCheckpoint,
             "{}: damaged: its hash is {}, the manifest has {}", file.path(), digest, expected);
}

}  // namespace

CheckpointReader CheckpointReader::Open(const std::string& directory, Verify verify) {
  CheckpointReader reader;
  reader.directory_ = directory;
  reader.verify_ = verify;
  const std::string path = (fs::path(directory) / kManifestName).string();
  OT_REQUIRE(fs::exists(path), ErrorCode::kCheckpoint, "{}: no checkpoint: has no {}", directory,
             kManifestName);
  reader.manifest_ = Manifest::FromText(path, ReadFile(path, ErrorCode::kCheckpoint));

  const Manifest& manifest = reader.manifest_;
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    reader.indices_[manifest.tensors[i].name] = static_cast<int>(i);
  }
  reader.pieces_.resize(manifest.tensors.size());
  for (size_t f = 0; f < manifest.files.size(); ++f) {
    const ManifestFile& file = manifest.files[f];
    const std::string file_path = (fs::path(directory) / file.name).string();
    std::error_code error;
    const uintmax_t bytes = fs::file_size(file_path, error);
    OT_REQUIRE(!error, ErrorCode::kCheckpoint, "{}: {}", file_path, error.message());
    OT_REQUIRE(bytes == static_cast<uintmax_t>(file.bytes), ErrorCode::kCheckpoint,
               "{}: damaged: has {} bytes, the manifest has {}", file_path, bytes, file.bytes);
    for (const ManifestRegion& region : file.regions) {
      const CheckpointTensor& tensor = manifest.tensors[static_cast<size_t>(region.tensor)];
      const int64_t element_bytes = static_cast<int64_t>(DTypeBytes(tensor.dtype));
      for (const ElementRect& rect : ToRects(region.runs, tensor.shape.row_elements())) {
        reader.pieces_[static_cast<size_t>(region.tensor)].push_back(
            {rect, static_cast<int>(f), region.offset + rect.position * element_bytes});
      }
    }
    reader.files_.push_back(std::make_unique<DataFile>());
  }
  for (std::vector<Piece>& pieces : reader.pieces_) {
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.rect.row_begin < b.rect.row_begin; });
  }
  return reader;
}

int CheckpointReader::IndexOf(const std::string& name) const {
  const auto found = indices_.find(name);
  OT_REQUIRE(found != indices_.end(), ErrorCode::kCheckpoint, "{}: holds no tensor {}", directory_,
             name);
  return found->second;
}

const CheckpointTensor& CheckpointReader::Find(const std::string& name) const {
  return manifest_.tensors[static_cast<size_t>(IndexOf(name))];
}

const InputFile& CheckpointReader::FileAt(int index) const {
  DataFile& slot = *files_[static_cast<size_t>(index)];
  const std::lock_guard<std::mutex> lock(slot.mutex);
  if (!slot.file) {
    const ManifestFile& entry = manifest_.files[static_cast<size_t>(index)];
    auto file = std::make_unique<InputFile>((fs::path(directory_) / entry.name).string());
    if (verify_ == Verify::kHashes) CheckHash(*file, entry.hash);
    slot.file = std::move(file);
  }
  return *slot.file;
}

void CheckpointReader::Read(const std::string& name, const std::vector<ElementRun>& runs,
                            DType dtype, void* out) const {
  const int index = IndexOf(name);
  const CheckpointTensor& tensor = manifest_.tensors[static_cast<size_t>(index)];
  for (const ElementRun& run : runs) {
    OT_CHECK(run.begin >= 0 && run.length >= 0 && run.count >= 1 &&
                 run.end() <= tensor.shape.num_elements(),
             "{}: tensor {} {}: elements [{}, +{}) x {}, {} apart", directory_, name,
             tensor.shape.ToString(), run.begin, run.length, run.count, run.stride);
  }
  OT_REQUIRE(IsConvertible(tensor.dtype, dtype), ErrorCode::kCheckpoint,
             "{}: tensor {}: stored as {}, cannot be read as {}", directory_, name,
             DTypeName(tensor.dtype), DTypeName(dtype));
  for (const ElementRect& wanted : ToRects(runs, tensor.shape.row_elements())) {
    char* target =
        static_cast<char*>(out) + wanted.position * static_cast<int64_t>(DTypeBytes(dtype));
    for (const Piece& piece : pieces_[static_cast<size_t>(index)]) {
      if (piece.rect.row_begin >= wanted.row_end) break;
      ReadShared(tensor, piece, wanted, dtype, target);
    }
  }
}

void CheckpointReader::ReadShared(const CheckpointTensor& tensor, const Piece& piece,
                                  const ElementRect& wanted, DType dtype, char* out) const {
  const ElementRect& held = piece.rect;
  const int64_t row_begin = std::max(held.row_begin, wanted.row_begin);
  const int64_t row_end = std::min(held.row_end, wanted.row_end);
  const int64_t column_begin = std::max(held.column_begin, wanted.column_begin);
  const int64_t column_end = std::min(held.column_end, wanted.column_end);
  if (row_begin >= row_end || column_begin >= column_end) return;
  // Rows that follow each other on both sides are read as one.
  int64_t rows = row_end - row_begin, length = column_end - column_begin;
  if (length == held.columns() && length == wanted.columns()) {
    length *= rows;
    rows = 1;
  }
  const int64_t from_bytes = static_cast<int64_t>(DTypeBytes(tensor.dtype));
  const int64_t to_bytes = static_cast<int64_t>(DTypeBytes(dtype));
  const int64_t pitch = held.columns() * from_bytes;
  const int64_t offset = piece.offset + (row_begin - held.row_begin) * pitch +
                         (column_begin - held.column_begin) * from_bytes;
  char* target = out + ((row_begin - wanted.row_begin) * wanted.columns() + column_begin -
                        wanted.column_begin) *
                           to_bytes;
  const InputFile& file = FileAt(piece.file);
  if (rows == 1 && tensor.dtype == dtype) {
    file.Read(offset, length * from_bytes, target);
    return;
  }
  const auto convert = [&](const char* in, int64_t n, char* to) {
    const int64_t converted = ConvertElements(tensor.dtype, in, dtype, to, n);
    OT_REQUIRE(converted == n, ErrorCode::kCheckpoint, "{}: tensor {}: an element does not fit {}",
               directory_, tensor.name, DTypeName(dtype));
  };
  // Short rows are read many at a time, with what lies between them; long ones in chunks.
  const int64_t chunk = kBufferBytes / from_bytes;
  const int64_t rows_at_once = std::max<int64_t>(1, kBufferBytes / pitch);
  std::vector<char> buffer;
  for (int64_t row = 0; row < rows; row += rows_at_once) {
    const int64_t n = std::min(rows_at_once, rows - row);
    for (int64_t begin = 0; begin < length; begin += chunk) {
      const int64_t count = n > 1 ? length : std::min(chunk, length - begin);
      buffer.resize(static_cast<size_t>((n - 1) * pitch + count * from_bytes));
      file.Read(offset + row * pitch + begin * from_bytes, static_cast<int64_t>(buffer.size()),
                buffer.data());
      for (int64_t r = 0; r < n; ++r) {
        convert(buffer.data() + r * pitch, count,
                target + ((row + r) * wanted.columns() + begin) * to_bytes);
      }
    }
  }
}

}  // namespace omnitrain
