#pragma once

#include <memory>

#include "core/model/config.h"
#include "core/model/language_model.h"
#include "core/model/param_store.h"
#include "core/model/vision_tower.h"

namespace omnitrain {

/// An encoder and an LLM over one ParamStore. Declares all parameters; the caller allocates and
/// fills them.
class MultimodalModel {
 public:
  explicit MultimodalModel(const ModelConfig& config)
      : config_(config), vision_(&params_, config.vision), llm_(&params_, config.text) {}
  MultimodalModel(const MultimodalModel&) = delete;
  MultimodalModel& operator=(const MultimodalModel&) = delete;

  const ModelConfig& config() const { return config_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }
  const VisionTower& vision() const { return vision_; }
  const LanguageModel& llm() const { return llm_; }

 private:
  ModelConfig config_;
  ParamStore params_;
  VisionTower vision_;
  LanguageModel llm_;
};

}  // namespace omnitrain
