#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/spec/job_spec.h"
#include "data/batch/sample.h"
#include "data/loader/loader.h"

namespace omnitrain {

/// What a job spec names, opened and checked against each other: model, tokenizer, image settings,
/// data.
struct JobInputs {
  ModelConfig model;
  std::string tokenizer_path;  // tokenizer.json
  ImageProcessorConfig image;
  std::shared_ptr<const SampleEncoder> encoder;
  PackOptions pack;
  std::vector<LoaderSource> sources;

  /// The loader of one data-parallel rank, from global sample `first_index` on.
  LoaderOptions LoaderFor(const JobSpec& spec, int64_t first_index, int dp_rank, int dp_size) const;
};

/// The model that a spec names, its vocabulary and token ids as far as its configuration has them.
/// Errors: kSpec or kCheckpoint, naming the key or file.
ModelConfig OpenModelConfig(const JobSpec& spec);

/// Errors: kSpec, kData or kCheckpoint, naming the key or file.
JobInputs OpenInputs(const JobSpec& spec);

/// Writes config.json, the tokenizer and preprocessor_config.json of the run's model to `dir`: with
/// weights beside them it is a Hugging Face directory.
void WriteModelSideFiles(const JobSpec& spec, const JobInputs& inputs, const std::string& dir);

}  // namespace omnitrain
