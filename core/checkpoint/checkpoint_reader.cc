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
      const size_t tensor = static_cast<size_t>(region.tensor);
      int64_t offset = region.offset;
      for (const ElementRun& run : region.runs) {
        if (run.begin == run.end) continue;
        reader.pieces_[tensor].push_back({run.begin, run.end, static_cast<int>(f), offset});
        offset += (run.end - run.begin) *
                  static_cast<int64_t>(DTypeBytes(manifest.tensors[tensor].dtype));
      }
    }
    reader.files_.push_back(std::make_unique<DataFile>());
  }
  for (std::vector<Piece>& pieces : reader.pieces_) {
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
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

void CheckpointReader::Read(const std::string& name, int64_t begin, int64_t end, DType dtype,
                            void* out) const {
  const int index = IndexOf(name);
  const CheckpointTensor& tensor = manifest_.tensors[static_cast<size_t>(index)];
  OT_CHECK(begin >= 0 && begin <= end && end <= tensor.shape.num_elements(),
           "{}: tensor {} {}: elements [{}, {})", directory_, name, tensor.shape.ToString(), begin,
           end);
  OT_REQUIRE(IsConvertible(tensor.dtype, dtype), ErrorCode::kCheckpoint,
             "{}: tensor {}: stored as {}, cannot be read as {}", directory_, name,
             DTypeName(tensor.dtype), DTypeName(dtype));
  const int64_t stored_bytes = static_cast<int64_t>(DTypeBytes(tensor.dtype));
  const int64_t chunk = kBufferBytes / stored_bytes;
  std::vector<char> buffer;
  const std::vector<Piece>& pieces = pieces_[static_cast<size_t>(index)];
  auto piece = std::upper_bound(pieces.begin(), pieces.end(), begin,
                                [](int64_t at, const Piece& p) { return at < p.end; });
  for (int64_t at = begin; at < end;) {
    if (at == piece->end) ++piece;
    const InputFile& file = FileAt(piece->file);
    char* target = static_cast<char*>(out) + (at - begin) * static_cast<int64_t>(DTypeBytes(dtype));
    const int64_t offset = piece->offset + (at - piece->begin) * stored_bytes;
    int64_t n = std::min(end, piece->end) - at;
    if (tensor.dtype == dtype) {
      file.Read(offset, n * stored_bytes, target);
    } else {
      n = std::min(n, chunk);
      buffer.resize(static_cast<size_t>(n * stored_bytes));
      file.Read(offset, n * stored_bytes, buffer.data());
      const int64_t converted = ConvertElements(tensor.dtype, buffer.data(), dtype, target, n);
      OT_REQUIRE(converted == n, ErrorCode::kCheckpoint,
                 "{}: tensor {}: element {} does not fit {}", directory_, name, at + converted,
                 DTypeName(dtype));
    }
    at += n;
  }
}

}  // namespace omnitrain
