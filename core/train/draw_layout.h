#pragma once

#include <string>

#include "core/model/config.h"
#include "core/model/llm_place.h"
#include "parallel/mesh/parallel_layout.h"

namespace omnitrain {

/// Nodes as blocks of ranks, one column a rank, one line an axis that has more than one rank:
///   node 1    rank   4   5   6   7
///             tp     0   1   0   1
///             dp     1   1   1   1
/// Rank r is on node r / ranks_per_node. Of many nodes the first two and the last are drawn, and
/// the rule that the others follow is written out.
std::string DrawNodes(const ParallelLayout& layout, int ranks_per_node);

/// Which layers (by chunk), embedding, head and encoder each pipeline rank holds, a line each, and
/// who encodes what.  `place`: of any rank; of it the stages count.
std::string DrawStages(const ParallelLayout& layout, const LlmPlace& place,
                       const ModelConfig& model);

}  // namespace omnitrain
