#pragma once

namespace omnitrain {

/// Whether an op overwrites its output (=) or adds to it (+=).
enum class Write { kOverwrite, kAccumulate };

}  // namespace omnitrain
