#pragma once

#include <set>
#include <string>

#include "core/checkpoint/hf_directory.h"
#include "core/model/multimodal_model.h"
#include "core/runtime/context.h"

namespace omnitrain {

/// Fills all parameters from a Hugging Face directory, in the compute dtype; of each stored tensor,
/// what this rank holds is read and nothing else. Names of transformers (`model.visual...`) and of
/// older hub files (`visual...`, `model.layers...`) are both found. Experts may be stored as
/// [E, out, in] or, as hub files have them, [E, in, out], all of a directory alike.
/// Returns the names in the directory that were read.
/// Errors: kCheckpoint naming the tensor that is missing or has another shape.
std::set<std::string> LoadParams(Context& ctx, const HfDirectory& directory,
                                 const ParamStore& params);

/// LoadParams for a model. With tied embeddings an lm_head.weight must be absent or equal to them.
/// Tensors that are not used here are named in the log.
void LoadWeights(Context& ctx, const HfDirectory& directory, MultimodalModel& model);

/// Writes the values of all parameters as a Hugging Face directory, in `dtype`, under the names of
/// the family's releases. Side files come from `side_files_from` (unchanged), or config.json is
/// made from the model's configuration where that is empty. The model must be whole: all of every
/// tensor on this rank, as between steps of one that is not split.
/// Errors: kInternal naming a tensor of which this rank holds a part.
void SaveModel(Context& ctx, const MultimodalModel& model, const std::string& target, DType dtype,
               const std::string& side_files_from);

/// The name of a parameter that transformers calls `name` in the files of a family's releases:
/// Qwen2-VL's and Qwen2.5-VL's keep `visual...` and `model.layers...`.
std::string HubName(ModelFamily family, const std::string& name);

/// The name under which a directory holds a parameter that transformers calls `name`, or "" if it
/// holds none.
std::string FindHfName(const HfDirectory& directory, const std::string& name);

}  // namespace omnitrain
