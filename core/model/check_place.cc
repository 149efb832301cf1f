#include "core/model/check_place.h"

#include "core/base/error.h"

namespace omnitrain {

void CheckPlace(const TextConfig& text, const ParallelDegrees& degrees) {
  const int tp = degrees.tp;
  const auto require = [tp](bool is_split, int64_t count, const char* what) {
    if (!is_split) {
      Fail(ErrorCode::kSpec, "parallel.llm.tp: {} {} do not split over tp={}", count, what, tp);
    }
  };
  require(text.num_heads % tp == 0, text.num_heads, "query heads");
  // Fewer kv heads than ranks are held by several ranks each.
  require(text.num_kv_heads % tp == 0 || tp % text.num_kv_heads == 0, text.num_kv_heads,
          "kv heads");
  const int num_sparse = text.num_moe_layers();
  require(num_sparse == text.num_layers || text.ffn_width % tp == 0, text.ffn_width,
          "columns of the mlp");
  require(text.vocab_size < 0 || text.vocab_size >= tp, text.vocab_size, "rows of the vocabulary");
  const int ep = degrees.ep;
  if (ep > 1 && num_sparse == 0) {
    Fail(ErrorCode::kSpec, "parallel.llm.ep: ep={}, but no layer of the model has experts", ep);
  }
  if (num_sparse > 0 && text.num_experts % ep != 0) {
    Fail(ErrorCode::kSpec, "parallel.llm.ep: {} experts do not split over ep={}", text.num_experts,
         ep);
  }
  const int num_stages = degrees.pp * degrees.vpp;
  if (text.num_layers < num_stages) {
    Fail(ErrorCode::kSpec, "parallel.llm.pp: {} layers do not fill the {} stages of pp={} vpp={}",
         text.num_layers, num_stages, degrees.pp, degrees.vpp);
  }
}

}  // namespace omnitrain
