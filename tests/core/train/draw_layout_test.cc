#include "core/train/draw_layout.h"

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

ParallelLayout Layout(int world, int tp, int pp, int vpp = 1, int ep = 1) {
  ParallelDegrees degrees;
  degrees.tp = tp;
  degrees.pp = pp;
  degrees.vpp = vpp;
  degrees.ep = ep;
  return ParallelLayout::Build(degrees, world);
}

TEST_CASE("Nodes are blocks of ranks, with the axes that have several ranks") {
  CHECK(DrawNodes(Layout(8, 2, 2), 4) ==
        "  node 0    rank   0   1   2   3\n"
        "            tp     0   1   0   1\n"
        "            dp     0   0   1   1\n"
        "            pp     0   0   0   0\n"
        "  node 1    rank   4   5   6   7\n"
        "            tp     0   1   0   1\n"
        "            dp     0   0   1   1\n"
        "            pp     1   1   1   1\n");
  // The last node need not be full; one rank has no axes.
  CHECK(DrawNodes(Layout(3, 1, 1), 2) ==
        "  node 0    rank   0   1\n"
        "            dp     0   1\n"
        "  node 1    rank   2\n"
        "            dp     2\n");
  CHECK(DrawNodes(Layout(1, 1, 1), 8) == "  node 0    rank   0\n");
}

TEST_CASE("Ranks that share experts are drawn too") {
  CHECK(DrawNodes(Layout(4, 2, 1, 1, 4), 4) ==
        "  node 0    rank   0   1   2   3\n"
        "            tp     0   1   0   1\n"
        "            dp     0   0   1   1\n"
        "            ep     0   1   2   3\n");
}

TEST_CASE("Of many nodes the first two and the last are drawn, with the rule between") {
  CHECK(DrawNodes(Layout(16, 2, 4), 2) ==
        "  node 0    rank   0   1\n"
        "            tp     0   1\n"
        "            dp     0   0\n"
        "            pp     0   0\n"
        "  node 1    rank   2   3\n"
        "            tp     0   1\n"
        "            dp     1   1\n"
        "            pp     0   0\n"
        "  nodes 2 to 6 go on so: rank = tp + 2 dp + 4 pp\n"
        "  node 7    rank  14  15\n"
        "            tp     0   1\n"
        "            dp     1   1\n"
        "            pp     3   3\n");
}

TEST_CASE("Stages are drawn with their uneven layers, chunks, embedding, head and encoder") {
  ModelConfig model;
  model.text.num_layers = 5;
  model.text.tie_word_embeddings = true;
  LlmPlace place;
  place.num_stages = 2;
  CHECK(DrawStages(Layout(4, 2, 2), place, model) ==
        "  pp 0   layers 0-1 (2 of 5); encoder, embedding\n"
        "  pp 1   layers 2-4 (3 of 5); head (tied, a copy)\n"
        "  encoder: whole on each of 2 ranks; the 2 of a replica share its items, "
        "largest first\n");
  model.text.tie_word_embeddings = false;
  place.num_stages = 4;
  CHECK(DrawStages(Layout(2, 1, 2, 2), place, model) ==
        "  pp 0   layers 0, 2-3 (3 of 5); encoder, embedding\n"
        "  pp 1   layers 1, 4 (2 of 5); head\n"
        "  encoder: on one rank\n");
  place.stage_layers = {1, 1, 2, 1};
  CHECK(DrawStages(Layout(2, 1, 2, 2), place, model).find("  pp 0   layers 0, 2-3 (3 of 5)") == 0);
  place.num_stages = 2;
  place.stage_layers = {1, 4};
  CHECK(DrawStages(Layout(2, 1, 2), place, model).find("  pp 0   layers 0 (1 of 5)") == 0);
}

}  // namespace
}  // namespace omnitrain
