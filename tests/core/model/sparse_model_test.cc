#include "tests/core/model/llm_job.h"
#include "tests/core/model/tiny_model.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

Job SparseJob() {
  Job job;
  job.text = TinyText(4, 2, /*is_tied=*/true);
  MakeSparse(&job.text);
  job.batches = AwkwardBatches(job.text);
  return job;
}

TEST_CASE("a model with experts gives the same losses and gradients on every layout") {
  const auto layout = GENERATE(
      JobLayout{1, 1, 1, 1}, JobLayout{1, 1, 2, 2}, JobLayout{2, 1, 1, 1}, JobLayout{2, 1, 1, 2},
      JobLayout{2, 1, 2, 2}, JobLayout{2, 1, 2, 4}, JobLayout{4, 1, 1, 2}, JobLayout{1, 1, 4, 4},
      JobLayout{1, 2, 1, 2, ContextMethod::kRing}, JobLayout{1, 2, 1, 2, ContextMethod::kUlysses},
      JobLayout{2, 2, 1, 4}, JobLayout{1, 2, 2, 4}, JobLayout{1, 3, 1, 1});
  Job job = SparseJob();
  const Outcome want = RunJob(job, {});
  CHECK(want.loss > want.evaluated_loss + 1);
  CAPTURE(layout.tp, layout.cp, layout.dp, layout.ep);
  SECTION("at once") {}
  SECTION("split") { job.is_split = true; }
  SECTION("recomputed") { job.recompute = {Recompute::kNormsAndActivations}; }
  SECTION("stages") { job.num_stages = 3; }
  SECTION("stages, split") {
    job.num_stages = 2;
    job.is_split = true;
  }
  CheckEqual(RunJob(job, layout), want);
}

TEST_CASE("experts in all layers, next to a frozen LLM, and without their balance loss") {
  Job job = SparseJob();
  SECTION("all layers") { job.text.dense_layers = {}; }
  SECTION("all layers, recomputed") {
    job.text.dense_layers = {};
    job.recompute = {Recompute::kNormsAndActivations};
  }
  SECTION("all layers, split") {
    job.text.dense_layers = {};
    job.is_split = true;
  }
  SECTION("frozen") { job.is_frozen = true; }
  SECTION("frozen, split") { job.is_frozen = job.is_split = true; }
  SECTION("frozen, recomputed") {
    job.is_frozen = true;
    job.recompute = {Recompute::kNormsAndActivations};
  }
  SECTION("no balance loss") { job.text.router_aux_loss_coef = 0; }
  const Outcome one = RunJob(job, {});
  CHECK((one.loss > one.evaluated_loss + 1) == (job.text.router_aux_loss_coef > 0));
  Job plain = job;
  plain.is_split = false;
  plain.recompute = {};
  CheckEqual(RunJob(job, {2, 1, 2, 4}), RunJob(plain, {}));
}

TEST_CASE("operations of sparse layers are those of the experts that a row goes to") {
  Job job = SparseJob();
  const auto flops = [&](int top_k) {
    ParamStore params;
    job.text.experts_per_token = top_k;
    return LanguageModel(&params, job.text).ForwardFlops({5, 2}, 0);
  };
  // Two layers, 7 rows, three matrices of 12 x 6.
  CHECK(flops(3) - flops(2) == Approx(2.0 * 2 * 7 * 3 * 12 * 6));
  const double sparse = flops(2);
  job.text.num_experts = 0;
  // In their place an mlp of width 24; a router has 4 rows.
  CHECK(flops(2) - sparse == Approx(2.0 * 2 * 7 * 12 * (3 * 24 - 3 * 2 * 6 - 4)));
}

}  // namespace
}  // namespace omnitrain
