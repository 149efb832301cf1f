#pragma once

#include "parallel/comm/mpi_world.h"

namespace omnitrain {

/// The MPI world of an ot_mpi_test, started before its first test case. Messages are cut to a few
/// kB so that the paths for huge tensors run too; waits end after 30 s.
MpiWorld& MpiTestWorld();

}  // namespace omnitrain
