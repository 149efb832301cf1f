#include "core/train/records.h"

#include <cstdio>

namespace omnitrain {

void RecordWriter::Write(const std::string& kind, const Json& fields) const {
  if (!is_writer_) return;
  Json record = {{"record", kind}};
  record.update(fields);
  // NaN and infinity have no JSON form; nlohmann writes null for them.
  const std::string line = record.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0) {
    Fail(ErrorCode::kInternal, "stdout: cannot write the '{}' record", kind);
  }
}

std::string StepLine(const Json& step, int64_t num_steps) {
  const auto number = [&](const char* key) {
    return step.contains(key) ? step[key].get<double>() : 0.0;
  };
  const Json& tokens = step.at("tokens");
  std::string line = fmt::format(
      "step {:>{}}/{}  loss {:8.4f}  norm {:8.3f}  lr {:.2e}  text {:>6}  vision {:>6}  {:8.1f} ms "
      " "
      "{:>8.0f} tok/s  wait {:5.1f} ms",
      step.at("step").get<int64_t>(), std::to_string(num_steps).size(), num_steps, number("loss"),
      number("grad_norm"), number("lr"), tokens.at("text").get<int64_t>(),
      tokens.at("vision").get<int64_t>(), number("step_ms"), number("tokens_per_s"),
      number("data_wait_ms"));
  if (number("skipped") > 0) line += fmt::format("  skipped {:.0f}", number("skipped"));
  const double eta = number("eta_s");
  line += fmt::format("  eta {:d}:{:02d}", static_cast<int>(eta) / 60, static_cast<int>(eta) % 60);
  return line;
}

}  // namespace omnitrain
