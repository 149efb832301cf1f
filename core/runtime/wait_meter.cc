#include "core/runtime/wait_meter.h"

#include <utility>

namespace omnitrain {

std::unique_ptr<Event> WaitMeter::NewEvent() {
  if (free_.empty()) return device_.NewEvent();
  std::unique_ptr<Event> event = std::move(free_.back());
  free_.pop_back();
  return event;
}

void WaitMeter::Begin(Stream& stream, const std::string& what) {
  waits_.push_back({what, NewEvent(), nullptr});
  waits_.back().begin->Record(stream);
}

void WaitMeter::End(Stream& stream) {
  waits_.back().end = NewEvent();
  waits_.back().end->Record(stream);
}

std::map<std::string, double> WaitMeter::Take() {
  std::map<std::string, double> ms;
  while (!waits_.empty() && waits_.front().end != nullptr && waits_.front().end->IsReached()) {
    Wait& wait = waits_.front();
    ms[wait.what] += wait.end->ElapsedMsSince(*wait.begin);
    free_.push_back(std::move(wait.begin));
    free_.push_back(std::move(wait.end));
    waits_.pop_front();
  }
  return ms;
}

}  // namespace omnitrain
