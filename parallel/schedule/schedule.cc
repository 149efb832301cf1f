#include "parallel/schedule/schedule.h"

#include <sstream>

#include "core/base/check.h"

namespace omnitrain {
namespace {

[[noreturn]] void RefuseLine(int line_number, const std::string& line, const std::string& what) {
  Fail(ErrorCode::kSpec, "schedule line {}: '{}': {}", line_number, line, what);
}

/// The number in `key=number`.
int ReadNumber(const std::string& word, const std::string& key, int line_number,
               const std::string& line) {
  if (word.rfind(key + "=", 0) != 0) RefuseLine(line_number, line, "no " + key + "=NUMBER");
  const std::string digits = word.substr(key.size() + 1);
  if (digits.empty() || digits.size() > 9 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    RefuseLine(line_number, line, key + " is no number");
  }
  return std::stoi(digits);
}

}  // namespace

bool ScheduleModule::operator==(const ScheduleModule& o) const {
  return name == o.name && is_encoder == o.is_encoder && is_trained == o.is_trained &&
         num_stages == o.num_stages;
}

const ScheduleModule* Schedule::FindModule(const std::string& name) const {
  for (const ScheduleModule& module : modules) {
    if (module.name == name) return &module;
  }
  return nullptr;
}

const ScheduleModule& Schedule::llm() const {
  const ScheduleModule* found = nullptr;
  for (const ScheduleModule& module : modules) {
    if (module.is_encoder) continue;
    OT_CHECK(found == nullptr, "schedule: modules {} and {} are both no encoder", found->name,
             module.name);
    found = &module;
  }
  OT_CHECK(found != nullptr, "schedule: no LLM among {} modules", modules.size());
  return *found;
}

bool Schedule::trains_encoders() const {
  if (purpose != SchedulePurpose::kTrain) return false;
  for (const ScheduleModule& module : modules) {
    if (module.is_encoder && module.is_trained) return true;
  }
  return false;
}

bool Schedule::operator==(const Schedule& o) const {
  return purpose == o.purpose && num_micro_batches == o.num_micro_batches && modules == o.modules &&
         ranks == o.ranks;
}

std::string ToString(const Schedule& schedule) {
  std::string text = fmt::format("schedule {} micro_batches={}\n",
                                 schedule.purpose == SchedulePurpose::kTrain ? "train" : "evaluate",
                                 schedule.num_micro_batches);
  for (const ScheduleModule& m : schedule.modules) {
    text += fmt::format("module {} {} {} stages={}\n", m.name, m.is_encoder ? "encoder" : "llm",
                        m.is_trained ? "trained" : "frozen", m.num_stages);
  }
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    text += fmt::format("rank {}: {}\n", r, ToString(schedule.ranks[r]));
  }
  return text;
}

Schedule ParseSchedule(const std::string& text) {
  Schedule schedule;
  std::istringstream in(text);
  std::string line;
  bool has_header = false;
  for (int line_number = 1; std::getline(in, line); ++line_number) {
    std::istringstream words(line);
    std::string first, a, b, c, d, extra;
    if (!(words >> first) || first[0] == '#') continue;
    if (first == "schedule") {
      words >> a >> b;
      if (has_header || (a != "train" && a != "evaluate") || (words >> extra)) {
        RefuseLine(line_number, line, "want one 'schedule train|evaluate micro_batches=N'");
      }
      has_header = true;
      schedule.purpose = a == "train" ? SchedulePurpose::kTrain : SchedulePurpose::kEvaluate;
      schedule.num_micro_batches = ReadNumber(b, "micro_batches", line_number, line);
    } else if (first == "module") {
      words >> a >> b >> c >> d;
      if ((b != "encoder" && b != "llm") || (c != "trained" && c != "frozen") || (words >> extra)) {
        RefuseLine(line_number, line, "want 'module NAME encoder|llm trained|frozen stages=N'");
      }
      if (schedule.FindModule(a) != nullptr) RefuseLine(line_number, line, "named twice");
      schedule.modules.push_back(
          {a, b == "encoder", c == "trained", ReadNumber(d, "stages", line_number, line)});
    } else if (first == "rank") {
      words >> a;
      if (a != fmt::format("{}:", schedule.ranks.size())) {
        RefuseLine(line_number, line, fmt::format("want rank {}:", schedule.ranks.size()));
      }
      std::string rest;
      std::getline(words, rest);
      schedule.ranks.push_back(ParseOps(rest));
    } else {
      RefuseLine(line_number, line, "want schedule, module or rank");
    }
  }
  OT_REQUIRE(has_header, ErrorCode::kSpec, "schedule: no line 'schedule train|evaluate ...'");
  return schedule;
}

}  // namespace omnitrain
