#include "parallel/schedule/op.h"

#include "core/base/error.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

std::string ErrorOf(const std::string& token) {
  try {
    ParseOp(token);
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::kSpec);
    return error.what();
  }
  return "";
}

TEST_CASE("Ops are read from their text and print back") {
  const std::string text =
      "vit:F3.1 llm:2F0 llm:1B0 llm:I4 llm:W4 RESHARD_F3@2 vit:RESHARD_B12@1/2 llm:2SEND_F0 "
      "llm:RECV_F0 llm:3SEND_B7 llm:RECV_B7 audio_2:F10.4%1 vit:FREE3.1 llm:REDUCE_GRAD.3 "
      "REDUCE_GRAD STEP";
  REQUIRE(ToString(ParseOps(text)) == text);
  const Op op = ParseOp("vit:1F3.2/5%7");
  REQUIRE(op.kind == OpKind::kForward);
  REQUIRE(op.module == "vit");
  REQUIRE(op.stage == 1);
  REQUIRE(op.micro_batch == 3);
  REQUIRE(op.slice == 2);
  REQUIRE(op.layer == 5);
  REQUIRE(op.group == 7);
  REQUIRE(ParseOp("RESHARD_F3@2").stage == 2);
  REQUIRE(ParseOp("RESHARD_F3@0") == ParseOp("RESHARD_F3"));
  REQUIRE(ParseOps(" \n ").empty());
}

TEST_CASE("Every combination of fields survives the round trip") {
  for (int kind = 0; kind <= static_cast<int>(OpKind::kFree); ++kind) {
    for (int bits = 0; bits < 32; ++bits) {
      Op op;
      op.kind = static_cast<OpKind>(kind);
      op.module = bits & 1 ? "vit" : "llm";
      op.stage = bits & 2 ? 11 : 0;
      const bool is_whole = op.kind == OpKind::kReduceGrad || op.kind == OpKind::kStep;
      op.micro_batch = is_whole ? -1 : 20;
      op.slice = bits & 4 ? 0 : -1;
      op.group = bits & 8 ? 3 : -1;
      op.layer = bits & 16 ? 0 : -1;
      INFO(ToString(op));
      REQUIRE(ParseOp(ToString(op)) == op);
    }
  }
}

TEST_CASE("What is no op is refused with its token") {
  REQUIRE(ErrorOf("llm:G3") == "schedule: op 'llm:G3': 'G' is no kind of op");
  REQUIRE(ErrorOf("llm:F") == "schedule: op 'llm:F': it names no micro_batch");
  REQUIRE(ErrorOf("F3") == "schedule: op 'F3': it names no module");
  REQUIRE(ErrorOf("STEP3") == "schedule: op 'STEP3': it takes no micro_batch");
  REQUIRE(ErrorOf("llm:F3.") == "schedule: op 'llm:F3.': no number behind '.'");
  REQUIRE(ErrorOf("llm:F3x") == "schedule: op 'llm:F3x': 'x' is left over");
  REQUIRE(ErrorOf("2RESHARD_F3") ==
          "schedule: op '2RESHARD_F3': the stage of a RESHARD stands behind '@'");
  REQUIRE(ErrorOf("llm:F3@1") ==
          "schedule: op 'llm:F3@1': '@' is for RESHARD; the stage stands before the kind");
  REQUIRE(ErrorOf("LLM:F3") != "");
  REQUIRE(ErrorOf(":F3") != "");
  REQUIRE(ErrorOf("llm:F99999999999") != "");
  REQUIRE(ErrorOf("") != "");
}

}  // namespace
}  // namespace omnitrain
