#include "core/train/model_io.h"

#include <cstring>
#include <set>
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

// Rows [begin, begin + n) of a parameter as they lie on the device, in bytes.
struct RowSpan {
  size_t offset, bytes;
};
RowSpan SpanOf(const Tensor& value, const HfPart& part) {
  const size_t row_bytes =
      static_cast<size_t>(value.shape.row_elements()) * DTypeBytes(value.dtype);
  return {static_cast<size_t>(part.row_begin) * row_bytes,
          static_cast<size_t>(part.num_rows) * row_bytes};
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

void LoadWeights(Context& ctx, const HfDirectory& directory, MultimodalModel& model) {
  const ParamStore& params = model.params();
  std::set<std::string> used;
  std::vector<char> host;
  for (ParamId id = 0; id < params.num_params(); ++id) {
    const Tensor& value = params.value(id);
    for (const HfPart& part : params.spec(id).hf_parts) {
      const std::string name = FindHfName(directory, part.name);
      OT_REQUIRE(!name.empty(), ErrorCode::kCheckpoint, "{}: no tensor '{}' of shape {}",
                 directory.path(), part.name, ShapeText(part.shape));
      directory.RequireShape(name, part.shape);
      used.insert(name);
      const RowSpan span = SpanOf(value, part);
      host.resize(span.bytes);
      directory.ReadAs(name, value.dtype, host.data(), 0,
                       part.num_rows * value.shape.row_elements());
      ctx.device().Copy(static_cast<char*>(value.data) + span.offset, host.data(), span.bytes,
                        ctx.stream());
      ctx.stream().Synchronize();
    }
  }
  if (model.config().text.tie_word_embeddings && directory.Has("lm_head.weight")) {
    CheckTiedHead(directory, FindHfName(directory, "model.language_model.embed_tokens.weight"));
    used.insert("lm_head.weight");
  }
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
    for (const HfPart& part : params.spec(id).hf_parts) {
      TensorSource source;
      source.name = HubName(model.config().family, part.name);
      source.dtype = dtype;
      source.shape = part.shape;
      source.source_dtype = value.dtype;
      const char* begin_of_part = static_cast<const char*>(value.data) + SpanOf(value, part).offset;
      source.read = [&ctx, begin_of_part, item = DTypeBytes(value.dtype)](
                        int64_t begin, int64_t count, void* out) {
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
