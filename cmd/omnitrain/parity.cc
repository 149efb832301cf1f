#include "core/train/parity.h"

#include <cstdio>
#include <fstream>
#include <sstream>

#include "cmd/omnitrain/command.h"
#include "cmd/omnitrain/session.h"
#include "core/base/log.h"

namespace omnitrain {
namespace {

struct ParityArguments {
  ParityOptions options;
  std::string precision = "fp64", device = "cpu", layouts, report, preprocess;
  std::vector<std::string> sets;
};

// One set of `--set`s a line; empty lines and comments are passed over.
std::vector<std::vector<std::string>> ReadLayouts(const std::string& path) {
  if (path.empty()) return {{}};
  std::istringstream lines(ReadFile(path, ErrorCode::kSpec));
  std::vector<std::vector<std::string>> layouts;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::vector<std::string> sets;
    for (std::string word; words >> word;) {
      if (word != "--set") sets.push_back(word);
    }
    if (!sets.empty()) layouts.push_back(sets);
  }
  OT_REQUIRE(!layouts.empty(), ErrorCode::kSpec, "{}: holds no layout", path);
  return layouts;
}

void Print(const std::string& layout, const ComparisonReport& report) {
  const auto line = [](const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); };
  for (const ComparedTensor& c : report.Worst(8)) {
    line(fmt::format("  {} {:<60} error {:.3e}  bound {:.1e}{}{}", c.ok() ? "ok  " : "FAIL", c.name,
                     c.error, c.bound, c.note.empty() ? "" : "  ", c.note));
  }
  if (!report.not_in_reference.empty()) {
    line(fmt::format("  {} computed tensors are not in the reference, such as {}",
                     report.not_in_reference.size(), report.not_in_reference.front()));
  }
  if (!report.not_computed.empty()) {
    line(fmt::format("  {} reference tensors were not computed, such as {}",
                     report.not_computed.size(), report.not_computed.front()));
  }
  line(fmt::format("parity {}: {} of {} within bounds{}", report.ok() ? "ok" : "FAILED",
                   static_cast<int>(report.compared.size()) - report.num_failed(),
                   report.compared.size(), layout.empty() ? "" : "  (" + layout + ")"));
}

int RunPreprocess(const std::string& dir) {
  const PreprocessParity parity = RunPreprocessParity(dir);
  for (const std::string& line : parity.lines) std::printf("%s\n", line.c_str());
  std::printf("preprocess %s\n", parity.ok ? "ok" : "FAILED");
  return parity.ok ? 0 : static_cast<int>(ErrorCode::kDiverged);
}

int Run(ParityArguments arguments) {
  if (!arguments.preprocess.empty()) return RunPreprocess(arguments.preprocess);
  for (const auto& [flag, path] :
       {std::pair<const char*, const std::string&>{"--model", arguments.options.model},
        {"--batch", arguments.options.batch}}) {
    OT_REQUIRE(!path.empty(), ErrorCode::kSpec, "parity: {} is missing", flag);
  }
  std::vector<std::string> base = {"precision=" + arguments.precision,
                                   "runtime.device=" + arguments.device};
  base.insert(base.end(), arguments.sets.begin(), arguments.sets.end());

  // MPI starts once; each layout is a set of groups of its own.
  const auto layouts = ReadLayouts(arguments.layouts);
  std::vector<JobSpec> specs;
  for (const auto& layout : layouts) {
    std::vector<std::string> sets = base;
    sets.insert(sets.end(), layout.begin(), layout.end());
    specs.push_back(ParseJobSpec({}, sets));
    RefuseUnsupported(specs.back());
  }
  Session session(specs[0]);
  const bool is_first = session.world().rank() == 0;
  bool ok = true;
  Json reports = Json::array();
  for (size_t i = 0; i < specs.size(); ++i) {
    const ComparisonReport report =
        RunParity(session.RuntimeFor(specs[i]), specs[i], arguments.options);
    ok = ok && report.ok();
    if (!is_first) continue;
    std::string name;
    for (const std::string& set : layouts[i]) name += (name.empty() ? "" : " ") + set;
    Print(name, report);
    Json json = report.ToJson();
    json["layout"] = name;
    reports.push_back(json);
  }
  if (is_first && !arguments.report.empty()) {
    const Json whole = {{"ok", ok}, {"world", session.world().size()}, {"layouts", reports}};
    WriteFileAtomically(arguments.report, whole.dump(1) + "\n", ErrorCode::kInternal);
  }
  return ok ? 0 : static_cast<int>(ErrorCode::kDiverged);
}

}  // namespace

void AddParity(CLI::App& app, Runner* run) {
  auto arguments = std::make_shared<ParityArguments>();
  CLI::App* parity =
      app.add_subcommand("parity", "compare a model with reference results, under any layout");
  ParityOptions& options = arguments->options;
  parity->add_option("--model", options.model, "Hugging Face directory");
  parity->add_option("--batch", options.batch, "prepared batch (safetensors)");
  parity->add_option("--expected", options.expected,
                     "reference results (safetensors), or a file of --dump");
  parity->add_option("--curve", options.curve, "JSON with a training curve to follow");
  parity->add_option("--precision", arguments->precision, "fp64, fp32 or bf16");
  parity->add_option("--device", arguments->device, "cpu or cuda");
  parity->add_option("--tolerance", options.tolerance, "bound of tensor errors, relative L2");
  parity->add_option("--loss-tolerance", options.loss_tolerance, "bound of the loss, relative");
  parity->add_option("--curve-tolerance", options.curve_tolerance,
                     "bound of curve points, relative");
  parity->add_option("--repeat", options.repeat, "feed the batch this many times")
      ->check(CLI::PositiveNumber);
  parity
      ->add_option("--micro-batch-tokens", options.micro_batch_tokens,
                   "pack samples to this many rows; 0: one sample each")
      ->check(CLI::NonNegativeNumber);
  parity->add_option("--layouts", arguments->layouts, "file with one set of --set values a line");
  parity->add_option("--dump", options.dump, "write what was computed, in f64");
  parity->add_option("--report", arguments->report, "write all errors as JSON");
  parity->add_option("--set", arguments->sets, "key=value of a job spec, such as parallel.llm.pp=2")
      ->allow_extra_args(false);
  parity->add_option("--preprocess", arguments->preprocess,
                     "check the image and tokenizer cases of this folder instead");
  parity->callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace omnitrain
