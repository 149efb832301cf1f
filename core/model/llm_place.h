#pragma once

#include <string>
#include <vector>

#include "core/base/check.h"
#include "parallel/comm/communicator.h"

namespace omnitrain {

/// A rank's seat on one axis of the layout. Sizes are enough to plan; to run, an axis of more than
/// one rank needs its communicator.
struct AxisSeat {
  int size = 1;
  int rank = 0;
  Communicator* comm = nullptr;
};

/// How attention sees rows that other ranks of the cp axis hold. kAuto: the cheaper one for the
/// sequence at hand.
enum class ContextMethod { kAuto, kRing, kUlysses };

/// Layers [begin, end) of a stack.
struct LayerRange {
  int begin = 0, end = 0;
};

/// Which part of the LLM this rank holds: a slice of every matrix (tp), of every sequence (cp), of
/// the experts (ep), and some stages of the pipeline. The default is the whole of it.
struct LlmPlace {
  AxisSeat tp, cp, ep;
  Communicator* rows = nullptr;  // the ranks that share the rows of a micro-batch: tp x cp
  ContextMethod context_method = ContextMethod::kAuto;
  int num_stages = 1;             // of the whole pipeline, pp * vpp
  std::vector<int> stages = {0};  // those on this rank, ascending
  std::vector<int> stage_layers;  // layers of each stage; empty: as even as can be

  bool HasStage(int stage) const {
    for (int s : stages) {
      if (s == stage) return true;
    }
    return false;
  }
  bool has_first_stage() const { return HasStage(0); }
  bool has_last_stage() const { return HasStage(num_stages - 1); }
  /// Layers of a stage. Left to itself as even as can be, the longer stages in the middle of the
  /// pipeline, since the first also embeds and the last also makes the loss.
  LayerRange LayersOf(int stage, int num_layers) const {
    OT_CHECK(num_layers >= num_stages, "{} layers over {} stages", num_layers, num_stages);
    if (!stage_layers.empty()) {
      LayerRange range;
      for (int s = 0; s < stage; ++s) range.begin += stage_layers[static_cast<size_t>(s)];
      range.end = range.begin + stage_layers[static_cast<size_t>(stage)];
      return range;
    }
    const int base = num_layers / num_stages, longer = num_layers % num_stages;
    // Stages [first_longer, first_longer + longer) hold one layer more.
    const int first_longer = (num_stages - longer + 1) / 2;
    const auto begin = [&](int s) {
      const int before = s - first_longer;
      return s * base + (before < 0 ? 0 : before < longer ? before : longer);
    };
    return {begin(stage), begin(stage + 1)};
  }
  /// Sequences are padded to a multiple of this.
  int64_t row_multiple() const {
    return tp.size * cp.size == 1 ? 1 : 2 * int64_t{tp.size} * cp.size;
  }
};

}  // namespace omnitrain
