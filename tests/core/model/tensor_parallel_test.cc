#include "tests/core/model/llm_job.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

TEST_CASE("tensor parallelism gives the same losses and gradients") {
  struct Sizes {
    int num_heads, num_kv_heads, tp;
  };
  // Kv heads that split over tp, and those that ranks share.
  const auto [num_heads, num_kv_heads, tp] =
      GENERATE(Sizes{4, 2, 2}, Sizes{8, 4, 4}, Sizes{8, 8, 2}, Sizes{4, 1, 2}, Sizes{8, 2, 4},
               Sizes{4, 1, 4}, Sizes{8, 2, 8});
  const bool is_tied = GENERATE(true, false);
  const int vocabulary = is_tied ? 37 : 41;
  Job job;
  job.text = TinyText(num_heads, num_kv_heads, is_tied);
  job.text.vocab_size = vocabulary;
  job.text.qk_norm = is_tied;
  job.text.attention_bias = !is_tied || num_kv_heads == 2;
  job.batches = AwkwardBatches(job.text);
  CAPTURE(num_heads, num_kv_heads, tp, is_tied);
  CheckEqual(RunJob(job, {tp}), RunJob(job, {1}));
}

TEST_CASE("tensor parallelism under split backwards, recomputation and stages") {
  const int tp = GENERATE(2, 4);
  Job job;
  job.text = TinyText(8, 2, /*is_tied=*/true);
  job.text.attention_bias = true;
  job.batches = AwkwardBatches(job.text);
  const Outcome want = RunJob(job, {1});
  CAPTURE(tp);
  SECTION("split") { job.is_split = true; }
  SECTION("recomputed") { job.recompute = {Recompute::kNormsAndActivations}; }
  SECTION("two stages") { job.num_stages = 2; }
  SECTION("two stages, split") {
    job.num_stages = 2;
    job.is_split = true;
  }
  CheckEqual(RunJob(job, {tp}), want);
}

TEST_CASE("tensor parallelism next to a frozen LLM") {
  Job job;
  job.text = TinyText(8, 2, /*is_tied=*/false);
  job.batches = AwkwardBatches(job.text);
  job.is_frozen = true;
  SECTION("at once") {}
  SECTION("split") { job.is_split = true; }
  const Outcome want = RunJob(job, {1});
  CHECK(want.values.count("batch 3 d_feature 1") == 1);
  CHECK(want.values.count("lm_head.weight") == 0);
  CheckEqual(RunJob(job, {4}), want);
}

TEST_CASE("a slice of the LLM says what it holds and who shares it") {
  ParamStore params;
  LlmPlace place;
  place.tp.size = 4;
  place.tp.rank = 3;
  place.num_stages = 2;
  place.stages = {1};
  const TextConfig text = TinyText(8, 2, /*is_tied=*/true);
  const LanguageModel llm(&params, text, place);
  CHECK(llm.vocab().first == 27);
  CHECK(llm.vocab().count == 10);
  std::map<std::string, ParamSpec> specs;
  for (ParamId id = 0; id < params.num_params(); ++id) {
    specs[params.spec(id).name] = params.spec(id);
  }
  const auto sharing = [&](const char* name) { return specs.at(name).sharing; };
  CHECK(sharing("llm.embed.weight") == ParamSharing::kTied);
  CHECK(sharing("llm.layers.1.norm1.weight") == ParamSharing::kWhole);
  CHECK(sharing("llm.layers.1.k_norm.weight") == ParamSharing::kWhole);
  CHECK(sharing("llm.layers.1.q.weight") == ParamSharing::kSlice);
  CHECK(sharing("llm.layers.1.kv.weight") == ParamSharing::kKvHeads);
  CHECK(sharing("llm.layers.1.down.weight") == ParamSharing::kSlice);
  CHECK(specs.at("llm.layers.1.kv.weight").hf_parts[1].first_row == 8);
  CHECK(specs.at("llm.layers.1.up.weight").hf_parts[1].first_row == 18);
  CHECK(specs.at("llm.layers.1.down.weight").hf_parts[0].first_column == 18);
}

}  // namespace
}  // namespace omnitrain
