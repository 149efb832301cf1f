#include "core/checkpoint/async_writer.h"

#include <chrono>
#include <exception>
#include <utility>

#include "core/base/log.h"

namespace omnitrain {

AsyncWriter::~AsyncWriter() {
  try {
    Wait();
  } catch (const std::exception& e) {
    Log("checkpoint", "{}", e.what());
  }
}

void AsyncWriter::Start(std::function<void()> job) {
  Wait();
  job_ = std::async(std::launch::async, std::move(job));
}

void AsyncWriter::Wait() {
  if (job_.valid()) job_.get();
}

bool AsyncWriter::IsRunning() const {
  return job_.valid() && job_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

}  // namespace omnitrain
