#include "core/train/draw_layout.h"

#include <algorithm>

#include "core/train/layout_groups.h"

namespace omnitrain {
namespace {

constexpr int kMostDrawn = 4;  // nodes

std::string DrawNode(const ParallelLayout& layout, int node, int ranks_per_node) {
  const Mesh& mesh = layout.llm();
  const int begin = node * ranks_per_node;
  const int end = std::min(begin + ranks_per_node, layout.world_size());
  const auto width = std::max<size_t>(3, std::to_string(layout.world_size() - 1).size() + 1);
  std::string head = fmt::format("  node {:<5}", node);
  std::string text;
  const auto line = [&](const char* name, auto value_of) {
    text += fmt::format("{:<12}{:<4}", head, name);
    for (int rank = begin; rank < end; ++rank) {
      text += mesh.Contains(rank) || std::string(name) == "rank"
                  ? fmt::format(" {:>{}}", value_of(rank), width)
                  : fmt::format(" {:>{}}", "-", width);
    }
    text += "\n";
    head.clear();
  };
  line("rank", [](int rank) { return rank; });
  for (Axis axis : mesh.order()) {
    if (mesh.size(axis) == 1) continue;
    line(AxisName(axis), [&](int rank) { return mesh.Coordinate(rank, axis); });
  }
  if (layout.ep() > 1) {
    line("ep", [&](int rank) {
      const std::vector<int> ranks = ExpertRanks(layout, rank);
      return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
    });
  }
  return text;
}

/// "rank = tp + 2 cp + 4 dp + 16 pp".
std::string RankRule(const Mesh& mesh) {
  std::string rule;
  int stride = 1;
  for (Axis axis : mesh.order()) {
    if (mesh.size(axis) > 1) {
      rule += fmt::format("{}{}{}", rule.empty() ? "" : " + ",
                          stride == 1 ? "" : fmt::format("{} ", stride), AxisName(axis));
    }
    stride *= mesh.size(axis);
  }
  return rule;
}

std::string LayersText(const LayerRange& layers) {
  return layers.end - layers.begin == 1 ? fmt::format("{}", layers.begin)
                                        : fmt::format("{}-{}", layers.begin, layers.end - 1);
}

}  // namespace

std::string DrawNodes(const ParallelLayout& layout, int ranks_per_node) {
  const int world = layout.world_size();
  const int num_nodes = (world + ranks_per_node - 1) / ranks_per_node;
  std::string text;
  for (int node = 0; node < num_nodes; ++node) {
    if (num_nodes > kMostDrawn && node == 2) {
      const int last = num_nodes - 1;
      text += last - 1 > 2 ? fmt::format("  nodes 2 to {} go on so", last - 1)
                           : std::string("  node 2 goes on so");
      text += fmt::format(": rank = {}\n", RankRule(layout.llm()));
      node = last;
    }
    text += DrawNode(layout, node, ranks_per_node);
  }
  return text;
}

std::string DrawStages(const ParallelLayout& layout, const LlmPlace& place,
                       const ModelConfig& model) {
  const int pp = layout.llm().size(Axis::kPp), num_layers = model.text.num_layers;
  const bool is_tied = model.text.tie_word_embeddings;
  std::string text;
  for (int rank = 0; rank < pp; ++rank) {
    int count = 0;
    std::string chunks;
    for (int chunk = 0; chunk < layout.vpp(); ++chunk) {
      const LayerRange layers = place.LayersOf(chunk * pp + rank, num_layers);
      count += layers.end - layers.begin;
      chunks += (chunk > 0 ? ", " : "") + LayersText(layers);
    }
    text += fmt::format("  pp {:<3} layers {} ({} of {})", rank, chunks, count, num_layers);
    if (rank == 0) text += "; encoder, embedding";
    if (rank == pp - 1) {
      text += fmt::format("; head{}", is_tied && pp * layout.vpp() > 1 ? " (tied, a copy)" : "");
    }
    text += "\n";
  }
  const int num_seats = layout.llm().size(Axis::kTp) * layout.llm().size(Axis::kCp);
  const int num_encoders = num_seats * layout.num_replicas();
  if (num_encoders == 1) return text + "  encoder: on one rank\n";
  text += fmt::format("  encoder: whole on each of {} ranks; ", num_encoders);
  text += num_seats > 1
              ? fmt::format("the {} of a replica share its items, largest first\n", num_seats)
              : std::string("each encodes the items of its own samples\n");
  return text;
}

}  // namespace omnitrain
