#pragma once

#include "kernels/cases/op_case.h"
#include "kernels/cases/random_shapes.h"

namespace omnitrain {

// Each appends the rows of one or a few ops to the table. A new file of cases adds a line here and
// in op_cases.cc.

void AddNormCases(std::vector<OpCase>* cases);
void AddRopeCases(std::vector<OpCase>* cases);
void AddActivationCases(std::vector<OpCase>* cases);
void AddRowsCases(std::vector<OpCase>* cases);
void AddElementwiseCases(std::vector<OpCase>* cases);
void AddOptimizerCases(std::vector<OpCase>* cases);
void AddGemmCases(std::vector<OpCase>* cases);
void AddAttentionCases(std::vector<OpCase>* cases);
void AddCrossEntropyCases(std::vector<OpCase>* cases);
void AddMoeCases(std::vector<OpCase>* cases);

// Each appends a case of every op of its group on shapes that are drawn.

void AddRandomGemmCases(RandomShapes& draw, std::vector<OpCase>* cases);
void AddRandomCrossEntropyCases(RandomShapes& draw, std::vector<OpCase>* cases);
void AddRandomMoeCases(RandomShapes& draw, std::vector<OpCase>* cases);

}  // namespace omnitrain
