#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace omnitrain {

/// Each subcommand adds itself to the parser; when the user names it, `run` is set to what does it
/// and gives the exit code.
using Runner = std::function<int()>;
void AddTrain(CLI::App& app, Runner* run);
void AddCheck(CLI::App& app, Runner* run);
void AddParity(CLI::App& app, Runner* run);
void AddExport(CLI::App& app, Runner* run);
void AddBench(CLI::App& app, Runner* run);
void AddTokenizer(CLI::App& app, Runner* run);

}  // namespace omnitrain
