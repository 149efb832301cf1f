#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/model/param_store.h"

namespace omnitrain {

/// Which gradient buckets are complete while a backward runs: tells when to start reducing them, so
/// that communication hides behind the layers that are still to come. Several buckets may fill at
/// once (matrices, norms, experts of a layer); they are released strictly from the last to the
/// first, the order in which a backward completes them, on every rank alike. Tied embeddings come
/// with the rest only: their first and last stage would wait for each other in mid-pipeline.
class ReduceAhead {
 public:
  explicit ReduceAhead(const ParamStore& params);

  /// Forgets the last step.
  void Begin();
  /// Gradients that nothing will add to in this step: of a layer of a stack ("llm", "vision"), or
  /// of all parameters of a group. Marking twice is legal.
  void MarkLayer(const std::string& stack, int layer);
  void MarkGroup(ParamGroup group);
  /// The next bucket that may be reduced, or -1: call until then.
  int Take();
  /// The next bucket whatever is known of it: at the end of a step, when all of them are complete.
  int TakeRest() { return next_ >= 0 ? next_-- : -1; }

 private:
  void Mark(ParamId id);

  const ParamStore& params_;
  std::map<std::pair<std::string, int>, std::vector<ParamId>> layers_;  // by LayerOfName
  std::vector<int> bucket_of_;  // per parameter; -1: frozen, or of a sharded layer
  std::vector<bool> is_marked_;
  std::vector<int> num_waiting_;  // per bucket: parameters not marked yet
  int next_ = -1;
};

}  // namespace omnitrain
