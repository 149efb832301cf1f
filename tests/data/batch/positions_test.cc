#include "data/batch/positions.h"

#include "core/base/json.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

PositionOptions Options(PositionRule rule, double tokens_per_second = 0) {
  PositionOptions options;
  options.rule = rule;
  options.image_token_id = 300;
  options.video_token_id = 301;
  options.tokens_per_second = tokens_per_second;
  return options;
}

void AddGrids(const Json& flat, ItemKind kind, std::vector<ItemShape>* items) {
  for (size_t i = 0; i < flat.size(); i += 3) {
    items->push_back({kind, {flat[i], flat[i + 1], flat[i + 2]}, 1.0});
  }
}

TEST_CASE("Reference positions of Qwen3-VL, Qwen2-VL and Qwen2.5-VL") {
  const Json cases = ReadJsonFile("tests/golden/positions/positions.json", ErrorCode::kData);
  REQUIRE(cases.size() == 11);
  for (const Json& c : cases) {
    INFO(c["name"].get<std::string>());
    const bool is_qwen3 = c["rule"] == "qwen3_vl";
    const auto options = Options(is_qwen3 ? PositionRule::kQwen3Vl : PositionRule::kTransformersV5,
                                 c["tokens_per_second"]);
    std::vector<ItemShape> items;
    AddGrids(c["images"], ItemKind::kImage, &items);
    AddGrids(c["videos"], ItemKind::kVideo, &items);
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    const auto runs = FindItemRuns(ids, items, options, "case");
    CHECK(PositionIds(static_cast<int>(ids.size()), runs, items, options) ==
          c["position_ids"].get<std::vector<int64_t>>());
    // The rules agree on images.
    if (c["videos"].empty()) {
      for (const auto rule : {PositionRule::kQwen, PositionRule::kQwen3Vl}) {
        CHECK(PositionIds(static_cast<int>(ids.size()), runs, items, Options(rule)) ==
              c["position_ids"].get<std::vector<int64_t>>());
      }
    }
  }
}

TEST_CASE("Video under the rule of Qwen's own trainer goes on behind the largest coordinate") {
  const std::vector<ItemShape> items = {{ItemKind::kVideo, {3, 2, 2}, 0.75}};
  const std::vector<int32_t> ids = {1, 301, 301, 301, 2};
  const auto positions = [&](double tokens_per_second) {
    const auto options = Options(PositionRule::kQwen, tokens_per_second);
    return PositionIds(5, FindItemRuns(ids, items, options, "case"), items, options);
  };
  CHECK(positions(0) == std::vector<int64_t>{0, 1, 2, 3, 4, 0, 1, 1, 1, 4, 0, 1, 1, 1, 4});
  // floor(i * 0.75 * 2) = 0, 1, 3
  CHECK(positions(2) == std::vector<int64_t>{0, 1, 2, 4, 5, 0, 1, 1, 1, 5, 0, 1, 1, 1, 5});
}

TEST_CASE("Neighbouring items share a stretch of placeholders") {
  const std::vector<ItemShape> items = {{ItemKind::kImage, {1, 2, 4}, 1},
                                        {ItemKind::kImage, {1, 2, 2}, 1}};
  const auto options = Options(PositionRule::kQwen3Vl);
  const auto runs = FindItemRuns({300, 300, 300}, items, options, "case");
  REQUIRE(runs.size() == 2);
  CHECK(runs[1].item == 1);
  CHECK(runs[1].first_row == 2);
  CHECK(PositionIds(3, runs, items, options) == std::vector<int64_t>{0, 0, 2, 0, 0, 2, 0, 1, 2});
}

TEST_CASE("Placeholders that do not match the grids are refused with both numbers") {
  const auto refusal = [](const std::vector<int32_t>& ids, const std::vector<ItemShape>& items) {
    try {
      FindItemRuns(ids, items, Options(PositionRule::kQwen3Vl), "some.jsonl:7");
    } catch (const Error& e) {
      CHECK(e.code() == ErrorCode::kData);
      CHECK(std::string(e.what()).rfind("some.jsonl:7: ", 0) == 0);
      return std::string(e.what()).substr(14);
    }
    return std::string();
  };
  const ItemShape image = {ItemKind::kImage, {1, 4, 4}, 1};
  const ItemShape video = {ItemKind::kVideo, {2, 2, 2}, 1};
  CHECK(refusal({300, 300, 300}, {image}) ==
        "3 image tokens in the text, but its 1 images fill 4 rows");
  CHECK(refusal({5, 300}, {}) == "1 image tokens in the text, but its 0 images fill 0 rows");
  CHECK(refusal({301}, {video}) == "1 video tokens in the text, but its 1 videos fill 2 rows");
  CHECK(refusal({300, 300, 5, 300, 300}, {image}) ==
        "a run of 2 image tokens at row 0, but item 0 fills 4 consecutive rows");
  CHECK(refusal({300}, {{ItemKind::kImage, {1, 3, 2}, 1}}) ==
        "item 0: a grid of 1 x 3 x 2 patches does not merge by 2");
  CHECK(refusal({301, 5, 301}, {video}).empty());
}

}  // namespace
}  // namespace omnitrain
