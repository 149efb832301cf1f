#include "core/train/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <initializer_list>

namespace omnitrain {
namespace {

std::atomic<int> g_signal{0};

void Note(int signal) {
  int expected = 0;
  if (g_signal.compare_exchange_strong(expected, signal)) return;
  // mpirun may pass one signal on twice; only an impatient second TERM or INT ends the run unsaved.
  if (signal == SIGTERM || signal == SIGINT) _exit(128 + signal);
}

}  // namespace

void CatchStopSignals() {
  struct sigaction action = {};
  action.sa_handler = Note;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) sigaction(signal, &action, nullptr);
}

int StopSignal() { return g_signal; }

}  // namespace omnitrain
