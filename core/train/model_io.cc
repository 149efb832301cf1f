#include "core/train/model_io.h"

#include <algorithm>
#include <vector>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/checkpoint/hf_save.h"

namespace omnitrain {
namespace {

bool TakePrefix(const std::string& name, const std::string& prefix, std::string* rest) {
  if (name.compare(0, prefix.size(), prefix) != 0) return false;
  *rest = name.substr(prefix.size());
  return true;
}

// Experts of a layer are one stored tensor [E, out, in] here and [E, in, out] in hub files.
bool IsExperts(const HfPart& part) {
  return part.shape.size() == 3 && part.name.find(".experts.") != std::string::npos;
}

std::vector<int64_t> Transposed(const std::vector<int64_t>& shape) {
  return {shape[0], shape[2], shape[1]};
}

// Whether the directory's experts are transposed. A square tensor does not tell, but its layer's
// other one does: [2I, D] and [D, I] are never both square.
bool AreExpertsTransposed(const HfDirectory& directory, const ParamStore& params) {
  for (ParamId id = 0; id < params.num_params(); ++id) {
    for (const HfPart& part : params.spec(id).hf_parts) {
      if (!IsExperts(part) || part.shape[1] == part.shape[2]) continue;
      const std::string name = FindHfName(directory, part.name);
      if (!name.empty()) return directory.Find(name).shape == Transposed(part.shape);
    }
  }
  return false;
}

// Elements of a stored tensor in the order of `runs`.
void ReadRuns(const HfDirectory& directory, const std::string& name,
              const std::vector<ElementRun>& runs, DType dtype, char* out) {
  const SafetensorsFile& file = directory.FileOf(name);
  const size_t element_bytes = DTypeBytes(dtype);
  for (const ElementRun& run : runs) {
    for (int64_t i = 0; i < run.count; ++i) {
      file.ReadAs(name, dtype, out, run.begin + i * run.stride, run.length);
      out += static_cast<size_t>(run.length) * element_bytes;
    }
  }
}

// out [columns, rows] = in [rows, columns] transposed, in blocks that stay in the cache.
template <typename Word>
void Transpose(const char* in, int64_t rows, int64_t columns, char* out) {
  constexpr int64_t kBlock = 32;
  const Word* from = reinterpret_cast<const Word*>(in);
  Word* to = reinterpret_cast<Word*>(out);
  for (int64_t row = 0; row < rows; row += kBlock) {
    for (int64_t column = 0; column < columns; ++column) {
      for (int64_t r = row; r < std::min(rows, row + kBlock); ++r) {
        to[column * rows + r] = from[r * columns + column];
      }
    }
  }
}

// Elements [begin, end) of the experts that a part names, of which each is stored transposed.
void ReadTransposed(const HfDirectory& directory, const std::string& name, const HfPart& part,
                    int64_t begin, int64_t end, DType dtype, char* out) {
  const int64_t rows = part.shape[2], columns = part.shape[1];  // as stored
  const int64_t expert_elements = rows * columns;
  const size_t element_bytes = DTypeBytes(dtype);
  std::vector<char> stored(static_cast<size_t>(expert_elements) * element_bytes), turned(stored);
  for (int64_t at = begin; at < end;) {
    const int64_t e = at / expert_elements, first = at % expert_elements;
    const int64_t count = std::min(expert_elements - first, end - at);
    directory.ReadAs(name, dtype, stored.data(), (part.first_row + e) * expert_elements,
                     expert_elements);
    switch (element_bytes) {
      case 2:
        Transpose<uint16_t>(stored.data(), rows, columns, turned.data());
        break;
      case 4:
        Transpose<uint32_t>(stored.data(), rows, columns, turned.data());
        break;
      default:
        Transpose<uint64_t>(stored.data(), rows, columns, turned.data());
    }
    std::copy_n(turned.begin() + first * static_cast<int64_t>(element_bytes),
                count * static_cast<int64_t>(element_bytes), out);
    out += static_cast<size_t>(count) * element_bytes;
    at += count;
  }
}

void CheckTiedHead(const HfDirectory& directory, const std::string& embed) {
  const auto head = directory.ReadAll<float>("lm_head.weight");
  const auto embeddings = directory.ReadAll<float>(embed);
  OT_REQUIRE(head == embeddings, ErrorCode::kCheckpoint,
             "{}: config.json ties the embeddings, but lm_head.weight differs from {}; set "
             "tie_word_embeddings to false to keep both",
             directory.path(), embed);
}

}  // namespace

std::string HubName(ModelFamily family, const std::string& name) {
  if (family != ModelFamily::kQwen2Vl && family != ModelFamily::kQwen25Vl) return name;
  std::string rest;
  if (TakePrefix(name, "model.visual.", &rest)) return "visual." + rest;
  if (TakePrefix(name, "model.language_model.", &rest)) return "model." + rest;
  return name;
}

std::string FindHfName(const HfDirectory& directory, const std::string& name) {
  if (directory.Has(name)) return name;
  const std::string old = HubName(ModelFamily::kQwen2Vl, name);
  return directory.Has(old) ? old : "";
}

std::set<std::string> LoadParams(Context& ctx, const HfDirectory& directory,
                                 const ParamStore& params) {
  const bool are_experts_transposed = AreExpertsTransposed(directory, params);
  std::set<std::string> used;
  std::vector<char> host;
  for (ParamId id = 0; id < params.num_params(); ++id) {
    const ParamSpec& spec = params.spec(id);
    const int64_t columns = spec.shape.row_elements();
    // Of a shard too, all that it is cut from has to be there.
    for (const HfPart& part : spec.hf_parts) {
      const std::string name = FindHfName(directory, part.name);
      OT_REQUIRE(!name.empty(), ErrorCode::kCheckpoint, "{}: no tensor '{}' of shape {}",
                 directory.path(), part.name, ShapeText(part.shape));
      used.insert(name);
      const bool is_transposed = are_experts_transposed && IsExperts(part);
      directory.RequireShape(name, is_transposed ? Transposed(part.shape) : part.shape);
      OT_CHECK(
          !is_transposed || (part.first_column == 0 && columns == part.shape[1] * part.shape[2]),
          "{}: part of an expert", spec.name);
    }
    const ParamStore::Kept kept = params.kept(id);
    if (!kept.values) continue;
    host.resize(static_cast<size_t>(kept.values.num_bytes()));
    const DType dtype = kept.values.dtype;
    for (const StoredPiece& piece :
         StoredPieces(spec, kept.begin, kept.begin + kept.values.num_elements())) {
      const HfPart& part = *piece.part;
      const std::string name = FindHfName(directory, part.name);
      char* out = host.data() + static_cast<size_t>(piece.begin - kept.begin) * DTypeBytes(dtype);
      if (are_experts_transposed && IsExperts(part)) {
        const int64_t first = part.row_begin * columns;
        ReadTransposed(directory, name, part, piece.begin - first, piece.end - first, dtype, out);
      } else {
        ReadRuns(directory, name, piece.runs, dtype, out);
      }
    }
    ctx.device().Copy(kept.values.data, host.data(), host.size(), ctx.stream());
    ctx.stream().Synchronize();
  }
  return used;
}

void LoadWeights(Context& ctx, const HfDirectory& directory, MultimodalModel& model) {
  std::set<std::string> used = LoadParams(ctx, directory, model.params());
  if (model.config().text.tie_word_embeddings && directory.Has("lm_head.weight")) {
    CheckTiedHead(directory, FindHfName(directory, "model.language_model.embed_tokens.weight"));
    used.insert("lm_head.weight");
  }
  // Of a part of the model most tensors are other ranks' business.
  const LlmPlace& place = model.llm().place();
  if (place.num_stages > static_cast<int>(place.stages.size())) return;
  std::string unused;
  int num_unused = 0;
  for (const std::string& name : directory.names()) {
    if (used.count(name) != 0) continue;
    if (++num_unused <= 5) unused += " " + name;
  }
  if (num_unused > 0) {
    Log("model", "{}: {} tensors are not part of this model and stay unused:{}{}", directory.path(),
        num_unused, unused, num_unused > 5 ? " ..." : "");
  }
}

void SaveModel(Context& ctx, const MultimodalModel& model, const std::string& target, DType dtype,
               const std::string& side_files_from) {
  const ParamStore& params = model.params();
  std::vector<TensorSource> sources;
  for (ParamId id = 0; id < params.num_params(); ++id) {
    const Tensor value = params.value(id);
    for (const StoredPiece& piece : StoredPieces(params.spec(id))) {
      TensorSource source;
      source.name = HubName(model.config().family, piece.part->name);
      source.dtype = dtype;
      source.shape = piece.part->shape;
      source.source_dtype = value.dtype;
      OT_CHECK(piece.num_elements() == source.num_elements(),
               "{}: this rank holds {} of {} elements of {}: a split model is exported from its "
               "checkpoint",
               target, piece.num_elements(), source.num_elements(), piece.part->name);
      const size_t item = DTypeBytes(value.dtype);
      const char* begin_of_part =
          static_cast<const char*>(value.data) + static_cast<size_t>(piece.begin) * item;
      source.read = [&ctx, begin_of_part, item](int64_t begin, int64_t count, void* out) {
        ctx.device().Copy(out, begin_of_part + static_cast<size_t>(begin) * item,
                          static_cast<size_t>(count) * item, ctx.stream());
        ctx.stream().Synchronize();
      };
      sources.push_back(std::move(source));
    }
  }
  HfSaveOptions options;
  options.side_files_from = side_files_from;
  if (side_files_from.empty()) {
    ModelConfig config = model.config();
    config.saved_dtype = dtype;
    options.side_files["config.json"] = ToHfConfig(config).dump(2) + "\n";
  }
  SaveHfDirectory(target, std::move(sources), options);
}

}  // namespace omnitrain
