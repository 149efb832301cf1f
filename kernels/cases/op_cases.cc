#include "kernels/cases/op_cases.h"

#include "kernels/cases/op_groups.h"

namespace omnitrain {

const std::vector<OpCase>& AllOpCases() {
  static const std::vector<OpCase>* const kCases = [] {
    auto* cases = new std::vector<OpCase>;
    AddNormCases(cases);
    AddRopeCases(cases);
    AddActivationCases(cases);
    AddRowsCases(cases);
    AddElementwiseCases(cases);
    AddOptimizerCases(cases);
    AddGemmCases(cases);
    AddAttentionCases(cases);
    AddCrossEntropyCases(cases);
    AddMoeCases(cases);
    return cases;
  }();
  return *kCases;
}

std::vector<OpCase> RandomOpCases(uint64_t seed, int rounds) {
  std::vector<OpCase> cases;
  RandomShapes draw(seed);
  for (int i = 0; i < rounds; ++i) {
    AddRandomGemmCases(draw, &cases);
    AddRandomCrossEntropyCases(draw, &cases);
    AddRandomMoeCases(draw, &cases);
  }
  return cases;
}

}  // namespace omnitrain
