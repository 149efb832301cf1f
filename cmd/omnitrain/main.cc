#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "cmd/omnitrain/command.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "parallel/comm/mpi_world.h"

int main(int argc, char** argv) {
  using namespace omnitrain;
  CLI::App app("omnitrain: trains multimodal LLMs");
  app.require_subcommand(1);
  app.set_version_flag("--version", "omnitrain 0.1.0");
  Runner run;
  AddTrain(app, &run);
  AddCheck(app, &run);
  AddParity(app, &run);
  AddExport(app, &run);
  AddTokenizer(app, &run);
  AddBench(app, &run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : static_cast<int>(ErrorCode::kSpec);
  }
  int code = static_cast<int>(ErrorCode::kInternal);
  try {
    return run();
  } catch (const Error& e) {
    Log("error", "{}", e.what());
    code = e.exit_code();
  } catch (const std::exception& e) {
    Log("error", "internal: {}", e.what());
  }
  // Ranks that are still alive wait for this one in a collective: end them with the same code.
  MpiAbort(code);
  return code;
}
