#include "parallel/schedule/render.h"

#include <set>

#include "core/base/error.h"
#include "core/base/json.h"
#include "parallel/schedule/add_communication.h"
#include "parallel/schedule/pipeline.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

int64_t Cost(const Op& op, int rank) {
  const int64_t ns = NominalCost(op, rank);
  return ns > 0 || op.kind == OpKind::kReduceGrad ? ns : 200;
}

Schedule Small() {
  PipelineParams params;
  params.kind = PipelineKind::kInterleaved;
  params.pp = 2;
  params.vpp = 2;
  params.num_micro_batches = 3;
  params.encoders = {{"vit", true, true, 1}};
  return AddCommunication(BuildPipeline(params));
}

/// The attribute of every element that `begin` opens.
std::vector<std::string> Attributes(const std::string& svg, const std::string& begin,
                                    const std::string& name) {
  std::vector<std::string> values;
  for (size_t at = svg.find(begin); at != std::string::npos; at = svg.find(begin, at + 1)) {
    const size_t from = svg.find(" " + name + "=\"", at) + name.size() + 3;
    values.push_back(svg.substr(from, svg.find('"', from) - from));
  }
  return values;
}

/// Whether every tag that opens closes, in order.
bool IsWellFormed(const std::string& svg) {
  std::vector<std::string> open;
  for (size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    const size_t end = svg.find('>', at);
    if (end == std::string::npos) return false;
    const std::string tag = svg.substr(at + 1, end - at - 1);
    if (tag.back() == '/') continue;
    if (tag[0] != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    } else if (open.empty() || open.back() != tag.substr(1)) {
      return false;
    } else {
      open.pop_back();
    }
  }
  return open.empty();
}

TEST_CASE("The trace holds every op that takes time, at its time") {
  const Schedule schedule = Small();
  const Simulation simulation = Simulate(schedule, Cost);
  const Json trace = Json::parse(ChromeTrace(schedule, simulation));
  std::vector<size_t> at(schedule.ranks.size(), 0);
  double last = 0;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "M") continue;
    REQUIRE(event.at("ph") == "X");
    const size_t rank = event.at("pid").get<size_t>();
    const std::vector<Op>& ops = schedule.ranks.at(rank);
    size_t i = at[rank];
    while (ops.at(i).kind == OpKind::kReduceGrad) ++i;
    at[rank] = i + 1;
    const SimulatedSpan& span = simulation.spans[rank][i];
    REQUIRE(event.at("name") == ToString(ops[i]));
    REQUIRE(event.at("ts").get<double>() * 1e3 == Approx(static_cast<double>(span.start_ns)));
    REQUIRE(event.at("dur").get<double>() * 1e3 ==
            Approx(static_cast<double>(span.end_ns - span.start_ns)));
    const bool is_communication =
        event.at("name").get<std::string>().find('_') != std::string::npos;
    REQUIRE(event.at("tid") == (is_communication ? 1 : 0));
    last = std::max(last, event.at("ts").get<double>() + event.at("dur").get<double>());
  }
  for (size_t r = 0; r < at.size(); ++r) REQUIRE(at[r] == schedule.ranks[r].size());
  REQUIRE(last * 1e3 == Approx(static_cast<double>(simulation.makespan_ns)));
}

TEST_CASE("The picture has a box for every op that takes time, within its frame") {
  const Schedule schedule = Small();
  const Simulation simulation = Simulate(schedule, Cost);
  const std::string svg = RenderSvg(schedule, simulation);
  REQUIRE(IsWellFormed(svg));
  REQUIRE(svg == RenderSvg(schedule, simulation));
  const std::string box = "<rect class=\"op\"";
  const auto x = Attributes(svg, box, "x"), width = Attributes(svg, box, "width");
  REQUIRE(x.size() == schedule.ranks[0].size() + schedule.ranks[1].size() - 2);
  for (size_t i = 0; i < x.size(); ++i) {
    REQUIRE(std::stod(x[i]) >= 70);
    REQUIRE(std::stod(x[i]) + std::stod(width[i]) <= 1270.02);
  }
  // F and B of LLM and encoder, communication, STEP.
  const auto fills = Attributes(svg, box, "fill");
  REQUIRE(std::set<std::string>(fills.begin(), fills.end()).size() == 6);
  REQUIRE(Attributes(svg, "<rect class=\"legend\"", "fill").size() == 8);
  for (const char* text : {">rank 0<", ">rank 1<", ">us<", "RESHARD_F2 "}) {
    CHECK(svg.find(text) != std::string::npos);
  }
}

TEST_CASE("A simulation of another schedule is refused") {
  const Schedule schedule = Small();
  Simulation simulation = Simulate(schedule, Cost);
  simulation.spans[1].pop_back();
  REQUIRE_THROWS_AS(RenderSvg(schedule, simulation), Error);
  REQUIRE_THROWS_AS(ChromeTrace(schedule, simulation), Error);
}

}  // namespace
}  // namespace omnitrain
