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

std::vector<std::string> EndLines(const Json& end) {
  std::vector<std::string> lines;
  if (end.contains("eval")) {
    lines.push_back(fmt::format("held out: loss {:.4f} over {} samples",
                                end["eval"]["loss"].get<double>(),
                                end["eval"]["samples"].get<int64_t>()));
  }
  if (end.contains("sight")) {
    const Json& sight = end["sight"];
    const Json& nats = sight["nats_per_byte"];
    lines.push_back(fmt::format(
        "sight, {} pairs: {:.3f} nats per caption byte with the own picture, {:.3f} with another, "
        "{:.3f} with a blank one; own preferred over another's: {:.1f} %",
        sight["pairs"].get<int64_t>(), nats["own"].get<double>(), nats["other"].get<double>(),
        nats["blank"].get<double>(), 100 * sight["prefers_own"].get<double>()));
    if (sight.contains("kind_accuracy")) {
      const Json& kinds = sight["kind_accuracy"];
      lines.push_back(
          fmt::format("kind named right: {:.1f} % with the picture, {:.1f} % with a blank one, "
                      "{:.1f} % by always "
                      "guessing the commonest",
                      100 * kinds["own"].get<double>(), 100 * kinds["blank"].get<double>(),
                      100 * kinds["commonest"].get<double>()));
    }
  }
  if (end.contains("captions")) {
    for (const Json& caption : end["captions"]) {
      lines.push_back(fmt::format(
          "{}\n    says: {}\n    true: {}", caption["sample"].get<std::string>(),
          caption["caption"].get<std::string>(), caption["reference"].get<std::string>()));
    }
  }
  return lines;
}

}  // namespace omnitrain
