#pragma once

#include <memory>

#include "core/model/config.h"
#include "core/model/language_model.h"
#include "core/model/param_store.h"
#include "core/model/vision_tower.h"

namespace omnitrain {

/// An encoder and an LLM over one ParamStore, or the part of them that a place in the layout holds:
/// the encoder goes with the first stage. Declares all parameters; the caller allocates and fills
/// them.
class MultimodalModel {
 public:
  explicit MultimodalModel(const ModelConfig& config, const LlmPlace& place = {})
      : config_(config),
        vision_(place.has_first_stage() ? std::make_unique<VisionTower>(&params_, config.vision)
                                        : nullptr),
        llm_(&params_, config.text, place) {}
  MultimodalModel(const MultimodalModel&) = delete;
  MultimodalModel& operator=(const MultimodalModel&) = delete;

  const ModelConfig& config() const { return config_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }
  bool has_vision() const { return vision_ != nullptr; }
  const VisionTower& vision() const {
    OT_CHECK(has_vision(), "no encoder on this stage");
    return *vision_;
  }
  const LanguageModel& llm() const { return llm_; }
  /// What the encoder gives the LLM: the embedding's rows and those of deep-stack layers.
  int num_features() const { return 1 + static_cast<int>(config_.vision.deepstack_layers.size()); }

 private:
  ModelConfig config_;
  ParamStore params_;
  std::unique_ptr<VisionTower> vision_;
  LanguageModel llm_;
};

}  // namespace omnitrain
