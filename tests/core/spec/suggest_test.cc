#include "core/spec/suggest.h"

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

TEST_CASE("edit distance counts insertions, removals, changes and swaps") {
  CHECK(EditDistance("", "") == 0);
  CHECK(EditDistance("", "abc") == 3);
  CHECK(EditDistance("steps", "step") == 1);
  CHECK(EditDistance("stpes", "steps") == 1);
  CHECK(EditDistance("cosin", "cosine") == 1);
  CHECK(EditDistance("abc", "xyz") == 3);
}

TEST_CASE("the nearest word is near, or there is none") {
  const std::vector<std::string> words{"lr", "min_lr_ratio", "betas", "clip", "warmup_steps"};
  CHECK(Nearest("learning_rate", words) == "lr");
  CHECK(Nearest("grad_clip", words) == "clip");
  CHECK(Nearest("warmup", words) == "warmup_steps");
  CHECK(Nearest("beta", words) == "betas");
  CHECK(Nearest("zzzzzz", words) == "");
  CHECK(Nearest("", words) == "");
}

TEST_CASE("keys are looked for in their group first") {
  const std::vector<std::string> keys{"run",           "run.seed",     "run.steps",
                                      "eval",          "eval.samples", "batch",
                                      "batch.samples", "optim",        "optim.lr"};
  CHECK(NearestKey("batch.sample", keys) == "batch.samples");
  CHECK(NearestKey("eval.sample", keys) == "eval.samples");
  CHECK(NearestKey("seed", keys) == "run.seed");
  CHECK(NearestKey("optim.seed", keys) == "run.seed");
  CHECK(NearestKey("optm", keys) == "optim");
  CHECK(NearestKey("zzzzzz", keys) == "");
}

}  // namespace
}  // namespace omnitrain
