#include "core/train/memory_estimate.h"

#include <algorithm>

#include "core/model/ring_blocks.h"
#include "core/optim/layer_slots.h"
#include "core/optim/sharded_adamw.h"
#include "kernels/attention/attention.h"
#include "kernels/cross_entropy/cross_entropy.h"

namespace omnitrain {
namespace {

/// What cuBLAS is given for itself (kernels/gemm).
constexpr int64_t kGemmWorkspaceBytes = int64_t{32} << 20;
/// Partial rows that a norm's backward on the CPU sums its weight gradient from, at most.
constexpr int64_t kMaxPartialRows = 64, kRowsOfPartial = 32;

int64_t CeilDiv(int64_t n, int64_t by) { return (n + by - 1) / by; }

AttentionSizes SizesOf(const std::vector<int32_t>& cu_seqlens, int64_t num_heads, int64_t num_kv,
                       int64_t head_dim) {
  AttentionSizes sizes;
  sizes.num_heads = num_heads;
  sizes.num_kv_heads = num_kv;
  sizes.head_dim = head_dim;
  for (size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t length = cu_seqlens[i + 1] - cu_seqlens[i];
    sizes.num_rows += length;
    sizes.longest = std::max(sizes.longest, length);
    sizes.num_sequences += length > 0 ? 1 : 0;
  }
  return sizes;
}

class Estimator {
 public:
  Estimator(const MultimodalModel& model, const ReplicaShape& shape, DeviceKind device,
            int num_threads)
      : model_(model),
        text_(model.config().text),
        place_(model.llm().place()),
        shape_(shape),
        device_(device),
        num_threads_(num_threads),
        dtype_(model.params().dtype()),
        element_bytes_(static_cast<int64_t>(DTypeBytes(dtype_))) {}

  void Add(const PlannedStep& step, MemoryEstimate* m) const {
    const std::vector<MicroBatch>& batches = *step.batches;
    m->activations = std::max(m->activations, static_cast<int64_t>(step.plan->arena_bytes));
    m->experts = std::max(m->experts, ExpertPool(step));
    for (size_t i = 0; i < batches.size(); ++i) {
      const RowLayout rows = MakeRowLayout(batches[i].num_tokens(), batches[i].cu_seqlens, place_,
                                           model_.llm().stack().heads());
      m->context = std::max(m->context, ContextBytes(rows));
      int64_t scratch = LlmScratch(batches[i], rows);
      if (model_.has_vision()) {
        const std::vector<int>& mine = step.plan->items[i][static_cast<size_t>(shape_.seat)];
        scratch = std::max(scratch,
                           VisionScratch(SelectItems(batches[i].items, mine, Pixels::kLeaveOut)));
      }
      m->scratch = std::max(m->scratch, scratch);
    }
  }

 private:
  int64_t ContextBytes(const RowLayout& rows) const {
    if (place_.cp.size == 1) return 0;
    Carver count(device_);
    const ContextAttention& context = model_.llm().stack().context();
    return static_cast<int64_t>(context.WorkspaceBytes(context.Carve(count, rows)));
  }

  int64_t Attention(const AttentionSizes& sizes) const {
    return static_cast<int64_t>(AttentionScratch(device_, dtype_, sizes, num_threads_));
  }

  /// Sums of a norm's weight gradients (a LayerNorm has two).
  int64_t NormSums(int64_t rows, int64_t width, int num_sums) const {
    if (device_ == DeviceKind::kCuda) return 0;
    const int64_t partials = std::clamp<int64_t>(CeilDiv(rows, kRowsOfPartial), 1, kMaxPartialRows);
    return num_sums * partials * width * element_bytes_;
  }

  int64_t LlmScratch(const MicroBatch& batch, const RowLayout& rows) const {
    const AttentionHeads heads = model_.llm().stack().heads();
    const bool is_ring = place_.cp.size > 1 && rows.method == ContextMethod::kRing;
    const std::vector<int32_t> own =
        is_ring ? LocalSegments(rows.CpRows(place_.cp.rank), rows.cu_seqlens) : rows.cu_seqlens;
    const bool is_ulysses = place_.cp.size > 1 && !is_ring;
    const int64_t split = is_ulysses ? place_.cp.size : 1;
    AttentionSizes sizes =
        SizesOf(own, heads.query / split, std::max<int64_t>(1, heads.kv / split), heads.dim);
    int64_t bytes = Attention(sizes);
    for (int peer = 0; is_ring && peer < place_.cp.size; ++peer) {
      const SeenBlock block =
          FindSeenBlock(rows.CpRows(place_.cp.rank), rows.CpRows(peer), rows.cu_seqlens);
      sizes.num_rows = sizes.longest = block.queries.count;
      sizes.num_sequences = 1;
      bytes = std::max(bytes, Attention(sizes));
    }
    const int64_t Tc = rows.rows_per_cp_rank();
    bytes = std::max(bytes, NormSums(Tc / place_.tp.size, text_.width, 1));
    if (!place_.has_last_stage()) return bytes;
    int64_t num_labels = 0;
    for (const RowRun& run : rows.CpRows(place_.cp.rank)) {
      const int64_t end = std::min<int64_t>(run.end(), batch.num_tokens());
      for (int64_t row = run.begin; row < end && !batch.labels.empty(); ++row) {
        num_labels += batch.labels[static_cast<size_t>(row)] >= 0 ? 1 : 0;
      }
    }
    const int64_t widest = CeilDiv(text_.vocab_size, place_.tp.size);
    return std::max(bytes, static_cast<int64_t>(LinearCrossEntropyScratch(
                               device_, dtype_, num_labels, text_.width, widest)));
  }

  int64_t VisionScratch(const ItemBatch& items) const {
    const VisionConfig& vision = model_.config().vision;
    const int64_t num_patches = items.num_patches();
    int64_t bytes =
        Attention(SizesOf(items.cu_seqlens, vision.num_heads, vision.num_heads, vision.head_dim()));
    bytes = std::max(bytes, NormSums(num_patches, vision.width, 2));
    bytes = std::max(bytes, NormSums(items.num_merged_rows(), vision.merged_dim(), 2));
    // Pixels arrive in f32 and are cast.
    if (dtype_ == DType::kF32) return bytes;
    return std::max(bytes, num_patches * vision.patch_dim() * static_cast<int64_t>(sizeof(float)));
  }

  /// Bytes of one sparse layer and micro-batch (moe_block.h).
  int64_t PooledBytes(int64_t rows, int64_t width_factor, int64_t ffn_factor) const {
    const auto block = [&](int64_t columns) {
      return static_cast<int64_t>(
          BlockPool::BlockBytes(static_cast<size_t>(rows * columns * element_bytes_)));
    };
    return width_factor * block(text_.width) + ffn_factor * block(text_.expert_ffn_width);
  }

  /// Most of the pool over a step: walks the list as the step does.
  int64_t ExpertPool(const PlannedStep& step) const {
    if (text_.num_experts == 0) return 0;
    const bool is_alone = place_.ep.size == 1;
    const RecomputePlan& recompute = step.plan->recompute;
    int64_t held = 0, most = 0;
    for (const Op& op : step.plan->schedule->ranks[static_cast<size_t>(shape_.pp_rank)]) {
      if (op.module != kLlmModule || op.micro_batch < 0) continue;
      const MicroBatch& batch = (*step.batches)[static_cast<size_t>(op.micro_batch)];
      const LayerRange layers = model_.llm().LayersOf(op.stage);
      // Sparse layers by what they keep: all, what recomputation leaves, or nothing until then.
      int64_t num_sparse = 0, num_of[3] = {0, 0, 0};
      for (int i = layers.begin; i < layers.end; ++i) {
        if (!text_.IsMoeLayer(i)) continue;
        ++num_sparse;
        ++num_of[static_cast<int>(recompute.Of(i - layers.begin))];
      }
      const RowLayout layout =
          MakeRowLayout(batch.num_tokens(), batch.cu_seqlens, place_, model_.llm().stack().heads());
      const int64_t rows = layout.rows_per_cp_rank() / place_.tp.size * text_.experts_per_token;
      const int64_t whole = PooledBytes(rows, 1, 3);
      const int64_t kept = num_of[0] * whole + num_of[1] * PooledBytes(rows, is_alone ? 0 : 1, 2);
      const int64_t made_again = num_of[2] > 0 ? whole : 0;
      const int64_t between = num_sparse * (is_alone ? 0 : PooledBytes(rows, 1, 0));
      const int64_t running = num_sparse > 0 ? PooledBytes(rows, 2, 1) + made_again : 0;
      const bool is_split = step.plan->schedule->llm().is_trained;
      if (op.kind == OpKind::kForward) held += kept;
      if (op.kind == OpKind::kInputGrad && is_split) held += between;
      most = std::max(most, held + running);
      if (op.kind == OpKind::kBackward || (op.kind == OpKind::kInputGrad && !is_split)) {
        held -= kept;
      }
      if (op.kind == OpKind::kWeightGrad) held -= kept + between;
    }
    return most;
  }

  const MultimodalModel& model_;
  const TextConfig& text_;
  const LlmPlace& place_;
  const ReplicaShape& shape_;
  const DeviceKind device_;
  const int num_threads_;
  const DType dtype_;
  const int64_t element_bytes_;
};

}  // namespace

MemoryEstimate EstimateMemory(const MultimodalModel& model, const ReplicaShape& shape,
                              const std::vector<PlannedStep>& steps,
                              const std::array<int, kNumParamSharings>& num_shards,
                              DeviceKind device, int num_threads) {
  const ParamStore& params = model.params();
  MemoryEstimate m;
  m.parameters = params.value_bytes();
  m.gradients = params.grad_bytes();
  m.optimizer = ShardedAdamW::StateBytes(params, num_shards);
  m.slots = LayerSlots::Bytes(params);
  const Estimator estimator(model, shape, device, num_threads);
  for (const PlannedStep& step : steps) estimator.Add(step, &m);
  if (device == DeviceKind::kCuda) m.scratch += kGemmWorkspaceBytes;
  return m;
}

std::string MemoryTable(const std::vector<std::string>& columns,
                        const std::vector<MemoryEstimate>& estimates) {
  std::string table = fmt::format("  {:<16}", "MiB");
  for (const std::string& column : columns) table += fmt::format(" {:>12}", column);
  const auto line = [&](const char* what, auto bytes_of) {
    std::string text = fmt::format("\n  {:<16}", what);
    bool has_any = false;
    for (const MemoryEstimate& m : estimates) {
      const int64_t bytes = bytes_of(m);
      has_any = has_any || bytes > 0;
      text += fmt::format(" {:>12.3f}", static_cast<double>(bytes) / (1 << 20));
    }
    if (has_any) table += text;
  };
  line("parameters", [](const MemoryEstimate& m) { return m.parameters; });
  line("main gradients", [](const MemoryEstimate& m) { return m.gradients; });
  line("optimizer state", [](const MemoryEstimate& m) { return m.optimizer; });
  line("layer slots", [](const MemoryEstimate& m) { return m.slots; });
  line("activations", [](const MemoryEstimate& m) { return m.activations; });
  line("cp workspace", [](const MemoryEstimate& m) { return m.context; });
  line("expert rows", [](const MemoryEstimate& m) { return m.experts; });
  line("scratch", [](const MemoryEstimate& m) { return m.scratch; });
  line("total", [](const MemoryEstimate& m) { return m.total(); });
  return table;
}

}  // namespace omnitrain
