#include "parallel/schedule/render.h"

#include <algorithm>

#include "core/base/check.h"
#include "core/base/json.h"
#include "parallel/schedule/op_index.h"

namespace omnitrain {
namespace {

constexpr int kLeft = 70, kWidth = 1200, kTop = 34, kRow = 34, kCompute = 22, kStrip = 6;
constexpr int kNumTicks = 10;

struct Colour {
  const char* name;
  const char* fill;
};

constexpr Colour kForwardColour = {"F", "#4c78a8"};
constexpr Colour kBackwardColour = {"B", "#54a24b"};
constexpr Colour kInputGradColour = {"I", "#72b7b2"};
constexpr Colour kWeightGradColour = {"W", "#e9b949"};
constexpr Colour kEncoderForwardColour = {"encoder F", "#e45756"};
constexpr Colour kEncoderBackwardColour = {"encoder B, I, W", "#b279a2"};
constexpr Colour kCommunicationColour = {"SEND, RECV, RESHARD", "#888888"};
constexpr Colour kOptimizerColour = {"REDUCE_GRAD, STEP", "#444444"};
constexpr const Colour* kLegend[] = {
    &kForwardColour,        &kBackwardColour,        &kInputGradColour,     &kWeightGradColour,
    &kEncoderForwardColour, &kEncoderBackwardColour, &kCommunicationColour, &kOptimizerColour};

const Colour& ColourOf(const Schedule& schedule, const Op& op) {
  if (IsCommunication(op.kind)) return kCommunicationColour;
  const ScheduleModule* module = schedule.FindModule(op.module);
  const bool is_encoder = module != nullptr && module->is_encoder;
  switch (op.kind) {
    case OpKind::kForward:
      return is_encoder ? kEncoderForwardColour : kForwardColour;
    case OpKind::kBackward:
      return is_encoder ? kEncoderBackwardColour : kBackwardColour;
    case OpKind::kInputGrad:
      return is_encoder ? kEncoderBackwardColour : kInputGradColour;
    case OpKind::kWeightGrad:
      return is_encoder ? kEncoderBackwardColour : kWeightGradColour;
    default:
      return kOptimizerColour;
  }
}

void RequireFit(const Schedule& schedule, const Simulation& simulation) {
  OT_CHECK(simulation.spans.size() == schedule.ranks.size(), "{} ranks simulated of {}",
           simulation.spans.size(), schedule.ranks.size());
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    OT_CHECK(simulation.spans[r].size() == schedule.ranks[r].size(),
             "rank {}: {} ops simulated of {}", r, simulation.spans[r].size(),
             schedule.ranks[r].size());
  }
}

class Svg {
 public:
  Svg(const Schedule& schedule, const Simulation& simulation)
      : schedule_(schedule),
        simulation_(simulation),
        height_(kTop + kRow * static_cast<int>(schedule.ranks.size())),
        scale_(static_cast<double>(kWidth) /
               static_cast<double>(std::max<int64_t>(1, simulation.makespan_ns))) {}

  std::string Draw() {
    text_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
        "font-family=\"sans-serif\" font-size=\"11\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        kLeft + kWidth + 40, height_ + 36);
    Legend();
    Axis();
    for (size_t r = 0; r < schedule_.ranks.size(); ++r) Row(r);
    return text_ + "</svg>\n";
  }

 private:
  double X(int64_t ns) const { return kLeft + static_cast<double>(ns) * scale_; }
  void Text(double x, double y, const char* anchor, const std::string& text) {
    text_ += fmt::format("<text x=\"{:.2f}\" y=\"{:.2f}\" text-anchor=\"{}\">{}</text>\n", x, y,
                         anchor, text);
  }

  void Legend() {
    double x = kLeft;
    for (const Colour* colour : kLegend) {
      text_ += fmt::format(
          "<rect class=\"legend\" x=\"{:.2f}\" y=\"8\" width=\"12\" height=\"12\" fill=\"{}\"/>\n",
          x, colour->fill);
      const std::string name = colour->name;
      Text(x + 16, 18, "start", name);
      x += 36 + 6.5 * static_cast<double>(name.size());
    }
  }
  void Axis() {
    for (int i = 0; i <= kNumTicks; ++i) {
      const int64_t ns = simulation_.makespan_ns * i / kNumTicks;
      text_ += fmt::format(
          "<line x1=\"{0:.2f}\" y1=\"{1}\" x2=\"{0:.2f}\" y2=\"{2}\" stroke=\"#dddddd\"/>\n", X(ns),
          kTop, height_ + 4);
      Text(X(ns), height_ + 18, "middle", fmt::format("{:.6g}", static_cast<double>(ns) / 1e3));
    }
    Text(kLeft - 8, height_ + 18, "end", "us");
  }
  void Row(size_t rank) {
    const double y = kTop + kRow * static_cast<double>(rank);
    const SimulatedRank& times = simulation_.ranks[rank];
    const int64_t all = std::max<int64_t>(1, simulation_.makespan_ns);
    Text(kLeft - 8, y + 13, "end", fmt::format("rank {}", rank));
    Text(kLeft - 8, y + 26, "end",
         fmt::format("{:.1f}% idle",
                     100 * static_cast<double>(times.bubble_ns) / static_cast<double>(all)));
    const size_t num_ranks = schedule_.ranks.size();
    for (size_t i = 0; i < schedule_.ranks[rank].size(); ++i) {
      const Op& op = schedule_.ranks[rank][i];
      const SimulatedSpan& span = simulation_.spans[rank][i];
      if (span.end_ns == span.start_ns) continue;
      const bool is_communication = IsCommunication(op.kind);
      const double width = X(span.end_ns) - X(span.start_ns);
      // Later chunks are paler.
      const size_t chunk = static_cast<size_t>(op.stage) / num_ranks;
      const double opacity =
          is_communication ? 1.0 : std::max(0.4, 1.0 - 0.2 * static_cast<double>(chunk));
      text_ += fmt::format(
          "<rect class=\"op\" x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{}\" "
          "fill=\"{}\" fill-opacity=\"{:.2f}\" stroke=\"#ffffff\" stroke-width=\"0.4\">"
          "<title>{} {}..{} ns</title></rect>\n",
          X(span.start_ns), is_communication ? y + kCompute + 2 : y, width,
          is_communication ? kStrip : kCompute, ColourOf(schedule_, op).fill, opacity, ToString(op),
          span.start_ns, span.end_ns);
      if (is_communication || op.micro_batch < 0 || width < 14) continue;
      Text(X(span.start_ns) + width / 2, y + 15, "middle", fmt::format("{}", op.micro_batch));
    }
  }

  const Schedule& schedule_;
  const Simulation& simulation_;
  const int height_;  // of legend and rows
  const double scale_;
  std::string text_;
};

Json Metadata(size_t rank, int lane, const char* what, const std::string& name) {
  return Json{
      {"name", what}, {"ph", "M"}, {"pid", rank}, {"tid", lane}, {"args", {{"name", name}}}};
}

}  // namespace

std::string RenderSvg(const Schedule& schedule, const Simulation& simulation) {
  RequireFit(schedule, simulation);
  return Svg(schedule, simulation).Draw();
}

std::string ChromeTrace(const Schedule& schedule, const Simulation& simulation) {
  RequireFit(schedule, simulation);
  Json events = Json::array();
  for (size_t r = 0; r < schedule.ranks.size(); ++r) {
    events.push_back(Metadata(r, 0, "process_name", fmt::format("rank {}", r)));
    events.push_back(Metadata(r, 0, "thread_name", "compute"));
    events.push_back(Metadata(r, 1, "thread_name", "communication"));
    for (size_t i = 0; i < schedule.ranks[r].size(); ++i) {
      const Op& op = schedule.ranks[r][i];
      const SimulatedSpan& span = simulation.spans[r][i];
      if (span.end_ns == span.start_ns) continue;
      events.push_back(Json{{"name", ToString(op)},
                            {"cat", ColourOf(schedule, op).name},
                            {"ph", "X"},
                            {"ts", static_cast<double>(span.start_ns) / 1e3},
                            {"dur", static_cast<double>(span.end_ns - span.start_ns) / 1e3},
                            {"pid", r},
                            {"tid", IsCommunication(op.kind) ? 1 : 0}});
    }
  }
  return Json{{"displayTimeUnit", "ms"}, {"traceEvents", events}}.dump();
}

}  // namespace omnitrain
