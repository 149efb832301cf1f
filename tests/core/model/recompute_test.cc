#include "tests/core/model/llm_job.h"
#include "tests/core/model/tiny_model.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

constexpr Recompute kNone = Recompute::kNone, kFull = Recompute::kFull,
                    kSelective = Recompute::kNormsAndActivations;

Job ThreeLayers(bool is_sparse) {
  Job job;
  job.text = TinyText(4, 2, /*is_tied=*/true);
  job.text.num_layers = 3;
  job.text.qk_norm = !is_sparse;
  if (is_sparse) MakeSparse(&job.text);
  job.batches = AwkwardBatches(job.text);
  return job;
}

TEST_CASE("recomputed layers have the gradients of those that keep everything, bit by bit") {
  Job job = ThreeLayers(GENERATE(false, true));
  job.num_stages = GENERATE(1, 2);
  job.is_frozen = GENERATE(false, true);
  const Outcome want = RunJob(job, {});
  job.recompute = GENERATE(RecomputePlan{kSelective}, RecomputePlan{kFull}, RecomputePlan{kFull, 1},
                           RecomputePlan{kSelective, 2}, RecomputePlan{kFull, 2, kSelective},
                           RecomputePlan{kSelective, 1, kFull}, RecomputePlan{kNone, 1, kFull});
  CAPTURE(job.text.num_experts, job.num_stages, job.is_frozen, static_cast<int>(job.recompute.kind),
          job.recompute.num_layers, static_cast<int>(job.recompute.rest));
  const Outcome got = RunJob(job, {});
  CHECK(got.loss == want.loss);
  CHECK(got.values == want.values);
}

TEST_CASE("recomputed layers over several ranks") {
  const bool is_sparse = GENERATE(false, true);
  JobLayout layout;
  SECTION("tp") { layout.tp = 2; }
  SECTION("cp") { layout.cp = 2; }
  SECTION("tp and cp") { layout.tp = layout.cp = 2; }
  SECTION("dp, experts shared") {
    layout.dp = 2;
    layout.ep = is_sparse ? 2 : 1;
  }
  SECTION("tp and cp, experts shared") {
    layout.tp = layout.cp = 2;
    layout.ep = is_sparse ? 4 : 1;
  }
  Job job = ThreeLayers(is_sparse);
  CAPTURE(is_sparse, layout.tp, layout.cp, layout.dp, layout.ep);
  const Outcome want = RunJob(job, {});
  CheckEqual(RunJob(job, layout), want);
  for (const RecomputePlan& recompute :
       {RecomputePlan{kFull}, RecomputePlan{kFull, 2, kSelective}, RecomputePlan{kFull, 1}}) {
    job.recompute = recompute;
    CheckEqual(RunJob(job, layout), want);
  }
}

TEST_CASE("what is recomputed takes memory once, however many layers there are") {
  const bool is_sparse = GENERATE(false, true);
  const auto bytes = [&](const RecomputePlan& recompute, int num_layers, bool is_scratch) {
    Job job = ThreeLayers(is_sparse);
    job.text.num_layers = num_layers;
    ParamStore params;
    const LanguageModel llm(&params, job.text);
    Carver kept, scratch;
    llm.Carve(kept, job.batches[3], 0, LossMode::kGradients, recompute, &scratch);
    Carver all;
    llm.Carve(all, job.batches[3], 0, LossMode::kGradients, recompute);
    CHECK(all.used() == kept.used() + scratch.used());
    return is_scratch ? scratch.used() : kept.used();
  };
  // Layers 0 and 1 are of either kind.
  const auto of_layer = [&](const RecomputePlan& recompute) {
    return (bytes(recompute, 6, false) - bytes(recompute, 3, false)) / 3;
  };
  CHECK(bytes({}, 6, true) == 0);
  CHECK(of_layer({kSelective}) < of_layer({kNone}));
  CHECK(of_layer({kFull}) < of_layer({kSelective}));
  CHECK(of_layer({kFull}) == 32 * 12 * sizeof(float));  // x [T, D]
  for (const Recompute kind : {kSelective, kFull}) {
    CHECK(bytes({kind}, 3, true) > 0);
    CHECK(bytes({kind}, 3, true) == bytes({kind}, 6, true));
  }
}

TEST_CASE("a split backward keeps what it needs") {
  Job job = ThreeLayers(/*is_sparse=*/false);
  job.is_split = true;
  job.recompute = {kFull, 1};
  CHECK_THROWS(RunJob(job, {}));
}

}  // namespace
}  // namespace omnitrain
