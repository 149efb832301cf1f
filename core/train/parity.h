#pragma once

#include <string>
#include <vector>

#include "core/runtime/context.h"
#include "core/spec/job_spec.h"
#include "core/train/comparison.h"
#include "core/train/layout_groups.h"

namespace omnitrain {

struct ParityOptions {
  std::string model;          // Hugging Face directory
  std::string batch;          // prepared batch
  std::string expected;       // reference results; a JSON of the same stem beside it gives the loss
  std::string curve;          // JSON with a training curve and its hyper-parameters; empty: not run
  std::string dump;           // where to write what was computed, in f64; empty: nowhere
  double tolerance = 0;       // of tensors; 0: as the precision says
  double loss_tolerance = 0;  // 0: as the precision says
  double curve_tolerance = 0;  // 0: as the precision says
  int repeat = 1;
  int64_t micro_batch_tokens = 0;  // 0: a sample each
};

/// The bounds that a precision must keep on a device.
struct ParityTolerances {
  double loss, tensor, curve;
};
ParityTolerances DefaultTolerances(Precision precision, DeviceKind device);

/// Runs the model on the batch under the layout and compares loss, logits, encoder outputs,
/// every gradient and the training curve with the reference. The report is whole on rank 0.
/// Collective. Errors: of the files; a comparison that fails is no error.
ComparisonReport RunParity(const JobRuntime& runtime, const JobSpec& spec,
                           const ParityOptions& options);

/// Image and tokenizer cases of a folder like golden/preprocess: meta.json, pictures,
/// expected.safetensors
/// (`CONFIG.FILE.pixel_values`, `.grid_thw`), tokenizer.json, tokenizer_cases.json. Lines of text,
/// then ok.
struct PreprocessParity {
  std::vector<std::string> lines;
  bool ok = false;
};
PreprocessParity RunPreprocessParity(const std::string& dir);

}  // namespace omnitrain
