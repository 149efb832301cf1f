#include "core/base/log.h"

#include <unistd.h>

#include <atomic>
#include <string>

namespace omnitrain {
namespace {
std::atomic<int> g_rank{0};
}

void SetLogRank(int rank) { g_rank = rank; }
int LogRank() { return g_rank; }

void LogLine(std::string_view tag, std::string_view message) {
  const std::string line = fmt::format("[{}] rank {}: {}\n", tag, g_rank.load(), message);
  // One write per line, so that lines of ranks that share a terminal do not interleave.
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

}  // namespace omnitrain
