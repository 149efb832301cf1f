#pragma once

#include <string>
#include <vector>

#include "data/image/image.h"

namespace omnitrain {

/// Bytes of tests/golden/preprocess/images/NAME.
std::string ReadFixture(const std::string& name);

/// The pixels of a lossless PNG fixture.
Image ReadExpected(const std::string& name);

bool FixtureExists(const std::string& name);

/// File names in decode/ that are inputs, not expected pixels.
std::vector<std::string> DecodeFixtures();

/// A picture without structure: level i of the flat buffer is bits 13..20 of i * 2654435761 mod
/// 2^32.
Image HashImage(int height, int width);

}  // namespace omnitrain
