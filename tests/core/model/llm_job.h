#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/model/language_model.h"

namespace omnitrain {

/// Micro-batches through an LLM of noise in f64, without an encoder.
struct Job {
  TextConfig text;
  std::vector<MicroBatch> batches;
  int num_stages = 1;
  bool is_split = false;  // the backward in two halves
  bool is_frozen = false;
  RecomputePlan recompute;
};

/// Who runs a job: tp x cp ranks share a micro-batch and dp such groups take turns; ep neighbours
/// among the tp x cp x dp ranks, tp running fastest, share the experts.
struct JobLayout {
  int tp = 1, cp = 1, dp = 1, ep = 1;
  ContextMethod context_method = ContextMethod::kAuto;
};

/// What a job computes, in the terms of the whole model whatever the layout.
struct Outcome {
  double loss = 0, evaluated_loss = 0;
  std::map<std::string, std::vector<double>> values;  // gradients, logits, hidden states
  std::vector<double>& At(const std::string& name, int64_t size) {
    std::vector<double>& v = values[name];
    v.resize(static_cast<size_t>(size));
    return v;
  }
};

TextConfig TinyText(int num_heads, int num_kv_heads, bool is_tied);

/// Segments of noise; every fifth row is an encoder's, and two of three are learned.
MicroBatch TextBatch(const TextConfig& text, const std::vector<int>& segments, uint64_t seed);

/// Four packed sequences of awkward lengths, one of them empty.
std::vector<MicroBatch> AwkwardBatches(const TextConfig& text);

/// Runs a job with ranks as threads, evaluation first. dp divides the micro-batches.
Outcome RunJob(const Job& job, const JobLayout& layout);

/// Catch checks that two outcomes agree to 1e-12.
void CheckEqual(const Outcome& got, const Outcome& want);

}  // namespace omnitrain
