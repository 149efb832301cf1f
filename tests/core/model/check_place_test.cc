#include "core/model/check_place.h"

#include "core/base/error.h"
#include "tests/core/model/llm_job.h"
#include "tests/core/model/tiny_model.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

/// The message, or "fine".
std::string Refusal(const TextConfig& text, const ParallelDegrees& degrees) {
  try {
    CheckPlace(text, degrees);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kSpec);
    return e.what();
  }
  return "fine";
}

TEST_CASE("CheckPlace refuses what does not split, with both numbers") {
  const auto message = [](int num_heads, int num_kv_heads, int ffn, int tp, int pp) {
    TextConfig text = TinyText(num_heads, num_kv_heads, true);
    text.ffn_width = ffn;
    ParallelDegrees degrees;
    degrees.tp = tp;
    degrees.pp = pp;
    return Refusal(text, degrees);
  };
  CHECK(message(14, 2, 8, 2, 2) == "fine");
  CHECK(message(12, 1, 8, 4, 1) == "fine");
  CHECK(message(14, 2, 8, 4, 1) == "parallel.llm.tp: 14 query heads do not split over tp=4");
  CHECK(message(12, 3, 8, 2, 1) == "parallel.llm.tp: 3 kv heads do not split over tp=2");
  CHECK(message(12, 4, 10, 4, 1) ==
        "parallel.llm.tp: 10 columns of the mlp do not split over tp=4");
  CHECK(message(4, 2, 8, 1, 3) ==
        "parallel.llm.pp: 2 layers do not fill the 3 stages of pp=3 vpp=1");
}

TEST_CASE("CheckPlace refuses experts that do not split, with both numbers") {
  const auto message = [](const TextConfig& text, int ep, int tp = 1) {
    ParallelDegrees degrees;
    degrees.ep = ep;
    degrees.tp = tp;
    return Refusal(text, degrees);
  };
  TextConfig text = TinyText(4, 2, true);
  MakeSparse(&text);
  CHECK(message(text, 4) == "fine");
  CHECK(message(text, 3) == "parallel.llm.ep: 4 experts do not split over ep=3");
  text.ffn_width = 9;
  CHECK(message(text, 2, 2) == "parallel.llm.tp: 9 columns of the mlp do not split over tp=2");
  text.dense_layers = {};
  CHECK(message(text, 2, 2) == "fine");
  text.dense_layers = {0, 1, 2};
  CHECK(message(text, 2) == "parallel.llm.ep: ep=2, but no layer of the model has experts");
  CHECK(message(TinyText(4, 2, true), 2) ==
        "parallel.llm.ep: ep=2, but no layer of the model has experts");
}

}  // namespace
}  // namespace omnitrain
