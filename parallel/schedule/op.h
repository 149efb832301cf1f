#pragma once

#include <string>
#include <vector>

namespace omnitrain {

/// What an op does. The letters are those of torch.distributed.pipelining.
enum class OpKind {
  kForward,          // F            keeps what its backward needs
  kBackward,         // B            input and weight gradients in one
  kInputGrad,        // I            input gradient alone: what the previous stage waits for
  kWeightGrad,       // W            weight gradient of an earlier I
  kSendForward,      // SEND_F       activations of this stage to the next stage
  kRecvForward,      // RECV_F       activations for this stage from the previous one
  kSendBackward,     // SEND_B       gradient of this stage's input to the previous stage
  kRecvBackward,     // RECV_B       gradient of this stage's output from the next one
  kReshardForward,   // RESHARD_F    encoder rows into the layout of the LLM
  kReshardBackward,  // RESHARD_B    their gradients back to where they were encoded
  kReduceGrad,       // REDUCE_GRAD  sums gradients over the ranks that share parameters
  kStep,             // STEP         clips, updates, gathers parameters
  kFree,             // FREE         ends the activations of its (module, stage, micro_batch, slice)
};

/// "F", "RESHARD_B", ...
const char* OpKindName(OpKind kind);

/// One entry of a rank's list. Activations are keyed (module, stage, micro_batch, slice).
/// Fields that do not apply hold -1 (stage: 0).
struct Op {
  OpKind kind = OpKind::kForward;
  /// "vit", "llm". Empty: all encoders (RESHARD_F/B), all modules (REDUCE_GRAD, STEP).
  std::string module;
  /// Global pipeline stage. Of RESHARD_F/B: the LLM stage at the other end.
  int stage = 0;
  int micro_batch = -1;
  /// Share of the module's work on the micro_batch; of REDUCE_GRAD the gradient bucket.
  int slice = -1;
  /// The gang of ranks that runs this op together; -1: this rank alone.
  int group = -1;
  /// LLM layer that RESHARD_F/B serves (deep-stack); -1: the embedding, or all layers.
  int layer = -1;

  bool operator==(const Op& o) const;
  bool operator!=(const Op& o) const { return !(*this == o); }
};

/// `[module:][stage]KIND[micro_batch][.slice][@stage][/layer][%group]`; the stage is left out when
/// 0 and stands behind `@` for RESHARD: "vit:F3.1", "llm:2F0", "RESHARD_F3@2", "REDUCE_GRAD".
std::string ToString(const Op& op);
/// Ops with one space between.
std::string ToString(const std::vector<Op>& ops);

/// The inverse. Errors: kSpec naming the token and what is wrong with it.
Op ParseOp(const std::string& token);
/// Ops between white space.
std::vector<Op> ParseOps(const std::string& text);

}  // namespace omnitrain
