#pragma once

namespace omnitrain {

/// From now on TERM, INT, USR1 and USR2 are noted instead of ending the process, so that the run
/// can save first; a second one of TERM or INT ends it at once. Call once, from the main thread.
void CatchStopSignals();

/// The signal that came, or 0.
int StopSignal();

}  // namespace omnitrain
