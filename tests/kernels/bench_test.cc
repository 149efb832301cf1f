#include "kernels/cases/bench.h"

#include "core/base/json.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

TEST_CASE("The bench gives a whole record per pass") {
  const auto device = NewCpuDevice(1);
  const auto stream = device->NewStream();
  Context ctx(*device, *stream);
  KernelBenchOptions options;
  options.filter = "rms_norm T=2048 D=256";
  options.min_ms = 1;
  std::vector<Json> lines;
  RunKernelBench(ctx, options,
                 [&](const std::string& line) { lines.push_back(Json::parse(line)); });
  REQUIRE(lines.size() == 2);
  CHECK(lines[0]["pass"] == "forward");
  CHECK(lines[1]["pass"] == "backward");
  for (const Json& line : lines) {
    INFO(line.dump());
    CHECK(line["repetitions"] >= 10);
    CHECK(line["p10_us"] <= line["median_us"]);
    CHECK(line["median_us"] <= line["p90_us"]);
    for (const char* key : {"bytes", "flops", "gb_s", "copy_gb_s", "gemm_gflop_s"}) {
      CHECK(line[key].get<double>() > 0);
    }
  }
  // x, dy and dx, two rows of statistics apart: 2048 x 256 f32.
  CHECK(lines[1]["bytes"] == 3.0 * 2048 * 256 * 4);
}

}  // namespace
}  // namespace omnitrain
