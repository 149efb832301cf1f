#include "kernels/cases/op_groups.h"
#include "kernels/cross_entropy/cross_entropy.h"

namespace omnitrain {
namespace {

/// The op makes its gradients with the loss: forward is the evaluation, backward the training form,
/// which adds to a loss of its own.
/// kSlice: the path for a slice of the vocabulary, here all of it.
enum class Vocabulary { kWhole, kSlice };
OpCase CrossEntropyCase(int64_t rows, int64_t width, int64_t vocabulary, int64_t pad,
                        Vocabulary held = Vocabulary::kWhole) {
  VocabShard all;
  all.vocabulary = all.widest = vocabulary;
  all.max = all.sum = [](const Tensor&) {};
  const bool is_slice = held == Vocabulary::kSlice;

  OpCase c;
  c.op = "cross_entropy";
  c.label = fmt::format("T={} D={} V={}{}{}", rows, width, vocabulary, pad ? " strided" : "",
                        is_slice ? " slice" : "");
  c.is_thread_invariant = false;  // the products
  std::vector<double> labelled, labels, weights;
  for (int64_t i = 0; i < rows; ++i) {
    if (i % 4 == 1) continue;
    labelled.push_back(static_cast<double>(i));
    labels.push_back(static_cast<double>(i * 7919 % vocabulary));
    weights.push_back(0.25 * static_cast<double>(i % 7));
  }
  const auto num_labelled = static_cast<int64_t>(labelled.size());
  c.Add(Input("h", {rows, width}).Pad(pad).Grad("dh").Moves(1, 1));
  c.Add(Input("w", {vocabulary, width}, Fill::Normal(0.3)).Grad("dw").Moves(1, 2));
  c.Add(Input("rows", {num_labelled}, Fill::List(labelled))).Type(OperandType::kInt32);
  c.Add(Input("labels", {num_labelled}, Fill::List(labels)).Type(OperandType::kInt32));
  c.Add(Input("weights", {num_labelled}, Fill::List(weights)).Type(OperandType::kF32));
  c.Add(InOut("loss_sum", {1}, Fill::Constant(1.5))).Type(OperandType::kF64).Seed("d_loss");
  c.Add(Input("d_loss", {1}, Fill::Constant(1))).Type(OperandType::kF64);
  c.Add(GradOut("train_loss_sum", {1}, true)).Type(OperandType::kF64);
  c.Add(GradOut("dh", {rows, width}, false).Pad(pad).Moves(0, 1));
  c.Add(GradOut("dw", {vocabulary, width}, true).Type(OperandType::kMainGrad).Moves(0, 2));
  c.forward = [all, is_slice](Context& ctx, const CaseRun& t) {
    LinearCrossEntropy(ctx, t["h"], t["w"], t["rows"], t["labels"], t["weights"], t["loss_sum"],
                       Tensor(), Tensor(), is_slice ? &all : nullptr);
  };
  c.backward = [all, is_slice](Context& ctx, const CaseRun& t) {
    LinearCrossEntropy(ctx, t["h"], t["w"], t["rows"], t["labels"], t["weights"],
                       t["train_loss_sum"], t["dh"], t["dw"], is_slice ? &all : nullptr);
  };
  c.forward_flops = 2 * static_cast<double>(num_labelled * width * vocabulary);
  c.backward_flops = 3 * c.forward_flops;
  return c;
}

}  // namespace

void AddCrossEntropyCases(std::vector<OpCase>* cases) {
  cases->push_back(CrossEntropyCase(1, 1, 1, 0));
  cases->push_back(CrossEntropyCase(0, 4, 9, 0));
  cases->push_back(CrossEntropyCase(6, 5, 3, 2));
  cases->push_back(CrossEntropyCase(41, 19, 257, 0));
  for (const int64_t rows : {0, 1, 41}) {
    cases->push_back(CrossEntropyCase(rows, 19, 257, 2, Vocabulary::kSlice));
  }
  cases->push_back(CrossEntropyCase(1024, 256, 2048, 0));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(CrossEntropyCase(256, 256, 151936, 0));
  cases->back().bench_on = BenchOn::kCpu;
  cases->push_back(CrossEntropyCase(8192, 1536, 151936, 0));
  cases->back().bench_on = BenchOn::kGpu;
}

void AddRandomCrossEntropyCases(RandomShapes& draw, std::vector<OpCase>* cases) {
  const int64_t rows = draw.Rows(300), width = draw.Size(1, 200), vocabulary = draw.Size(1, 5000);
  cases->push_back(CrossEntropyCase(rows, width, vocabulary, draw.Pad()));
}

}  // namespace omnitrain
