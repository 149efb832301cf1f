#pragma once

#include <string>
#include <vector>

#include "core/tensor/element_run.h"
#include "core/tensor/tensor.h"

namespace omnitrain {

/// Empty when `runs` hold every element of a tensor of this shape exactly once; otherwise the first
/// elements that are wrong: "elements [5, 6) are in no file", or "in two places".
/// Requires: 0 <= begin and end() <= the elements of the tensor, of every run.
/// Cost: R log R for R rectangles of the tensor as a matrix of shape[0] rows, whatever its size;
/// runs that are strided by anything but such rows count each on its own.
std::string FindCoverFault(const Shape& shape, const std::vector<ElementRun>& runs);

}  // namespace omnitrain
