#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/checkpoint/safetensors_writer.h"

namespace omnitrain {

struct HfSaveOptions {
  /// Files of at most this many bytes of tensor data; a tensor that is larger has one of its own.
  int64_t max_shard_bytes = 5'000'000'000;
  /// A model directory whose side files (config.json, tokenizer, preprocessor, chat template) are
  /// copied unchanged; may be the target itself. Empty: none.
  std::string side_files_from;
  /// Side files by name with their whole contents; they win over copied ones.
  std::map<std::string, std::string> side_files;
};

/// Writes a directory that transformers loads: the tensors under the names given, one file or
/// shards with their index, and the side files. Sources are read in the order given.
///  - config.json is required, from either place. Where it names another float type than the
///    tensors have (`dtype`, `torch_dtype`, at the top and in sub-configs), those keys are
///    rewritten.
///  - `lm_head.weight` is left out when config.json ties the embeddings.
///  - The directory is built as `target`.part and then takes the place of an existing one at once:
///    after a crash or a full disk the old one is whole.
/// Errors: kCheckpoint with the path and the reason, the .part removed; a target that holds files
/// that no model directory has, which the replacement would delete.
void SaveHfDirectory(const std::string& target, std::vector<TensorSource> tensors,
                     const HfSaveOptions& options);

}  // namespace omnitrain
