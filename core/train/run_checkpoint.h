#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "core/checkpoint/async_writer.h"
#include "core/checkpoint/checkpoint.h"
#include "core/model/multimodal_model.h"
#include "core/optim/sharded_adamw.h"

namespace omnitrain {

/// Saves and restores a run: master weights and both moments, frozen parameters, and the trainer's
/// state. Elements are named by Hugging Face tensor and place in it ("master/NAME", "exp_avg/NAME",
/// "exp_avg_sq/NAME", "frozen/NAME"), so that what one layout saved any other restores. Of frozen
/// parameters the first of the ranks that share one writes it, or each its shard. Files are written
/// in the background from a snapshot; communication stays on the calling thread. Collective over
/// `world`: all ranks make the same calls.
class RunCheckpoints {
 public:
  struct Options {
    std::string run_out;
    int keep_last = 2;
    bool is_async = true;
  };
  RunCheckpoints(Context& ctx, Communicator& world, Options options);
  ~RunCheckpoints();

  /// Takes a snapshot and starts writing it. A save that is still under way is finished first.
  void Start(int64_t step, const ParamStore& params, const ShardedAdamW& optimizer,
             const Json& state);

  /// What became of a save.
  struct Result {
    int64_t step = 0;
    std::string path;   // of the checkpoint, empty when it failed
    std::string error;  // of the first rank that failed
    double seconds = 0;
  };
  /// Commits the save under way once all ranks have written their part; waits for them if `block`.
  /// Returns results of the saves that ended, each once; a failed save leaves the checkpoints
  /// before it as they were.
  std::vector<Result> Finish(bool block);

 private:
  struct Pending;
  void Commit();

  Context& ctx_;
  Communicator& world_;
  Options options_;
  std::unique_ptr<Pending> pending_;
  std::vector<Result> ended_;
};

/// Puts the parameters and optimizer state of `directory` in place, whatever ranks of whatever
/// layout wrote it, and returns the trainer's state. Collective over the optimizer's world.
/// Errors: kCheckpoint naming the tensor that is missing or has another shape.
Json RestoreCheckpoint(Context& ctx, const std::string& directory, ParamStore& params,
                       ShardedAdamW& optimizer);

/// Values only, in the compute dtype, for export and evaluation: what this rank's model holds of
/// them, which may be all. Not collective.
Json RestoreValues(Context& ctx, const std::string& directory, ParamStore& params);

}  // namespace omnitrain
