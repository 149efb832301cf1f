#include <algorithm>
#include <filesystem>

#include "core/model/config.h"
#include "core/spec/job_spec.h"
#include "tests/core/spec/temp_files.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

std::vector<std::string> Configs() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator("configs")) {
    if (entry.path().extension() == ".yaml") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

TEST_CASE("every file in configs/ is a whole job that this version runs") {
  REQUIRE(Configs().size() >= 2);
  for (const std::string& path : Configs()) {
    CAPTURE(path);
    const JobSpec spec = LoadJobSpec({path}, {});
    CHECK_NOTHROW(RefuseUnsupported(spec));
    CHECK(LoadJobSpec({WriteTempFile("echo.yaml", ToYaml(spec))}, {}) == spec);
    if (!spec.model.arch.empty()) CHECK_NOTHROW(ModelConfigFromArch(spec.model.arch));
  }
}

}  // namespace
}  // namespace omnitrain
