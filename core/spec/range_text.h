#pragma once

#include <string>

#include "core/spec/fields.h"

namespace omnitrain {

// The accepted values of a key in words, the same in errors and in the key reference.

std::string RangeText(IntRange range);     // ">= 1", "0 .. 2147483647"
std::string RangeText(RealRange range);    // "> 0", "0 <= x < 1"
std::string ChoicesText(EnumNames names);  // "cosine, constant, linear"

}  // namespace omnitrain
