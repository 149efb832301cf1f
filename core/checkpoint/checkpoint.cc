#include "core/checkpoint/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <unordered_map>
#include <utility>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/checkpoint/checkpoint_reader.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/hash.h"
#include "core/checkpoint/manifest.h"

namespace omnitrain {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kAlignment = 64;
constexpr const char* kPart = ".part";

std::string StepName(int64_t step) { return fmt::format("step-{:08}", step); }

// The step of `step-00000100`; -1 for any other name.
int64_t StepOf(const std::string& name) {
  constexpr size_t kPrefix = 5;
  if (name.rfind("step-", 0) != 0 || name.size() == kPrefix || name.size() > kPrefix + 18)
    return -1;
  int64_t step = 0;
  for (size_t i = kPrefix; i < name.size(); ++i) {
    if (name[i] < '0' || name[i] > '9') return -1;
    step = step * 10 + (name[i] - '0');
  }
  return StepName(step) == name ? step : -1;
}

struct FoundCheckpoint {
  fs::path path;
  int64_t step = 0;
  int64_t save_idx = 0;
};

// The complete checkpoints of a directory, the one written last first. Damaged ones are logged.
std::vector<FoundCheckpoint> ListComplete(const fs::path& directory) {
  std::vector<FoundCheckpoint> found;
  if (!fs::exists(directory)) return found;
  for (const std::string& name : ListDirectory(directory.string())) {
    const int64_t step = StepOf(name);
    if (step < 0) continue;
    const fs::path path = directory / name;
    try {
      found.push_back({path, step, CheckpointReader::Open(path.string()).save_idx()});
    } catch (const Error& e) {
      Log("checkpoint", "passed over: {}", e.what());
    }
  }
  std::sort(found.begin(), found.end(), [](const FoundCheckpoint& a, const FoundCheckpoint& b) {
    return std::make_pair(a.save_idx, a.step) > std::make_pair(b.save_idx, b.step);
  });
  return found;
}

void PointLatestAt(const fs::path& directory, const std::string& name) {
  const fs::path temporary = directory / (std::string("latest") + kPart);
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(name, temporary, error);
  OT_REQUIRE(!error, ErrorCode::kCheckpoint, "{}: cannot create: {}", temporary.string(),
             error.message());
  ReplaceAtomically(temporary.string(), (directory / "latest").string());
}

// The checkpoint that was just written is safe: what cannot be removed is a matter for the log.
// `older` is sorted, the one written last first.
void Prune(const std::vector<FoundCheckpoint>& older, const fs::path& written, int keep_last) {
  int num_kept = 1;
  for (const FoundCheckpoint& checkpoint : older) {
    if (checkpoint.path == written || ++num_kept <= keep_last) continue;
    // Renamed first: a crash half way leaves no directory that looks like a checkpoint.
    const fs::path doomed = checkpoint.path.string() + kPart;
    std::error_code error;
    fs::rename(checkpoint.path, doomed, error);
    if (!error) fs::remove_all(doomed, error);
    if (error)
      Log("checkpoint", "{}: cannot remove: {}", checkpoint.path.string(), error.message());
  }
}

}  // namespace

std::string PartDirectory(const std::string& run_out, int64_t step) {
  return (fs::path(run_out) / "checkpoints" / (StepName(step) + kPart)).string();
}

std::string BeginCheckpoint(const std::string& run_out, int64_t step) {
  OT_CHECK(step >= 0, "step {}", step);
  const fs::path directory = fs::path(run_out) / "checkpoints";
  MakeDirectories(directory.string());
  for (const std::string& name : ListDirectory(directory.string())) {
    const fs::path path = directory / name;
    if (path.extension() != kPart || StepOf(path.stem().string()) < 0) continue;
    Log("checkpoint", "{}: removed, left by a save that did not finish", path.string());
    RemoveTree(path.string());
  }
  const std::string part_dir = PartDirectory(run_out, step);
  MakeDirectories(part_dir);
  return part_dir;
}

std::string WriteRankFile(const std::string& part_dir, int rank,
                          const std::vector<Region>& regions) {
  try {
    ManifestFile file;
    file.name = fmt::format("rank-{:05}.bin", rank);
    OutputFile out((fs::path(part_dir) / file.name).string());
    Hasher hasher;
    const auto write = [&](const void* data, int64_t bytes) {
      hasher.Add(data, bytes);
      out.Write(data, bytes);
    };
    std::vector<CheckpointTensor> tensors;
    std::unordered_map<std::string, int> indices;
    for (const Region& region : regions) {
      for (const ElementRun& run : region.runs) {
        OT_CHECK(run.begin >= 0 && run.length >= 0 && run.count >= 1 &&
                     run.end() <= region.global_shape.num_elements(),
                 "tensor {} {}: elements [{}, +{}) x {}, {} apart", region.name,
                 region.global_shape.ToString(), run.begin, run.length, run.count, run.stride);
      }
      const auto [index, is_new] = indices.emplace(region.name, static_cast<int>(tensors.size()));
      if (is_new) tensors.push_back({region.name, region.dtype, region.global_shape});
      const CheckpointTensor& tensor = tensors[static_cast<size_t>(index->second)];
      OT_CHECK(tensor.dtype == region.dtype && tensor.shape == region.global_shape,
               "tensor {}: given as {} {} and {} {}", region.name, DTypeName(tensor.dtype),
               tensor.shape.ToString(), DTypeName(region.dtype), region.global_shape.ToString());
      constexpr char kZeros[kAlignment] = {};
      write(kZeros, (kAlignment - out.size() % kAlignment) % kAlignment);
      file.regions.push_back({index->second, out.size(), region.runs});
      write(region.data, NumElements(region.runs) * static_cast<int64_t>(DTypeBytes(region.dtype)));
    }
    out.Finish();
    file.bytes = out.size();
    file.hash = hasher.Digest();
    return RankEntry(tensors, file);
  } catch (...) {
    AbortCheckpoint(part_dir);
    throw;
  }
}

std::string CommitCheckpoint(const std::string& part_dir, const std::vector<std::string>& entries,
                             const std::string& state, int keep_last) {
  const fs::path part(part_dir);
  const fs::path directory = part.parent_path();
  const std::string name = part.stem().string();
  OT_CHECK(part.extension() == kPart && StepOf(name) >= 0, "{}", part_dir);
  const fs::path target = directory / name;
  const std::vector<FoundCheckpoint> older = ListComplete(directory);
  try {
    Manifest manifest;
    manifest.save_idx = older.empty() ? 0 : older.front().save_idx + 1;
    manifest.step = StepOf(name);
    manifest.world_size = static_cast<int>(entries.size());
    manifest.state = state;
    for (const std::string& entry : entries) manifest.AddEntry(entry);
    const std::string fault = manifest.FindFault();
    OT_CHECK(fault.empty(), "{}: {}", part_dir, fault);
    for (const ManifestFile& file : manifest.files) {
      const InputFile written((part / file.name).string());
      OT_REQUIRE(written.size() == file.bytes, ErrorCode::kCheckpoint,
                 "{}: has {} bytes, its rank wrote {}: do all ranks see one file system?",
                 written.path(), written.size(), file.bytes);
    }
    WriteFileAtomically((part / kManifestName).string(), manifest.ToText(), ErrorCode::kCheckpoint);
    SyncDirectory(part_dir);
    ReplaceAtomically(part_dir, target.string());
  } catch (...) {
    AbortCheckpoint(part_dir);
    throw;
  }
  PointLatestAt(directory, name);
  if (keep_last > 0) Prune(older, target, keep_last);
  return target.string();
}

void AbortCheckpoint(const std::string& part_dir) noexcept {
  std::error_code ignored;
  fs::remove_all(part_dir, ignored);
}

std::string FindLatest(const std::string& run_out) {
  const std::vector<FoundCheckpoint> found = ListComplete(fs::path(run_out) / "checkpoints");
  return found.empty() ? "" : found.front().path.string();
}

}  // namespace omnitrain
