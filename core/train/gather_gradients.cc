#include "core/train/gather_gradients.h"

#include <cstring>
#include <string>
#include <vector>

#include "core/base/json.h"
#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

// What a rank tells of its shards: [[name, shape, [[begin, length, stride, count], ...]], ...] as
// text, and all values in that order as bytes.
struct Message {
  Json pieces = Json::array();
  std::string values;
};

Message OwnedGradients(Context& ctx, const ShardedAdamW& optimizer, const ParamStore& params) {
  Message message;
  for (const OwnedRange& range : optimizer.owned()) {
    for (const StoredPiece& piece :
         StoredPieces(params.spec(range.param), range.begin, range.end)) {
      Json runs = Json::array();
      for (const ElementRun& run : piece.runs) {
        runs.push_back({run.begin, run.length, run.stride, run.count});
      }
      message.pieces.push_back({piece.part->name, piece.part->shape, runs});
    }
    const OwnedTensor wide(ctx.device(), DType::kF64, range.grads.shape);
    Cast(ctx, range.grads, *wide);
    const size_t at = message.values.size(), bytes = static_cast<size_t>(wide->num_bytes());
    message.values.resize(at + bytes);
    ctx.device().Copy(message.values.data() + at, wide->data, bytes, ctx.stream());
    ctx.stream().Synchronize();
  }
  return message;
}

// One tensor as it fills.
struct Filling {
  HostTensor tensor;
  std::vector<bool> is_filled;
  int64_t num_filled = 0;
};

void Fill(const std::string& name, const ElementRun& run, const char* values, Filling* filling) {
  OT_CHECK(run.begin >= 0 && run.end() <= static_cast<int64_t>(filling->is_filled.size()),
           "gradient of {}: elements up to {} of {}", name, run.end(), filling->is_filled.size());
  for (int64_t i = 0; i < run.num_elements(); ++i) {
    const size_t place = static_cast<size_t>(run[i]);
    OT_CHECK(!filling->is_filled[place], "gradient of {}: element {} comes from two ranks", name,
             place);
    filling->is_filled[place] = true;
    std::memcpy(&filling->tensor.values[place], values + i * 8, 8);
  }
  filling->num_filled += run.num_elements();
}

}  // namespace

NamedTensors GatherGradients(Context& ctx, const ShardedAdamW& optimizer, const ParamStore& params,
                             Communicator& world) {
  const Message mine = OwnedGradients(ctx, optimizer, params);
  const std::vector<std::string> pieces = world.AllGatherStrings(mine.pieces.dump());
  const std::vector<std::string> values = world.AllGatherStrings(mine.values);
  std::map<std::string, Filling> filling;
  for (size_t rank = 0; rank < pieces.size(); ++rank) {
    const char* next = values[rank].data();
    for (const Json& piece : Json::parse(pieces[rank])) {
      const std::string name = piece.at(0);
      Filling& f = filling[name];
      const auto shape = piece.at(1).get<std::vector<int64_t>>();
      if (f.is_filled.empty()) {
        size_t elements = 1;
        for (int64_t d : shape) elements *= static_cast<size_t>(d);
        f.tensor.shape = shape;
        f.tensor.values.resize(elements);
        f.is_filled.resize(elements);
      }
      OT_CHECK(f.tensor.shape == shape, "gradient of {}: two shapes", name);
      for (const Json& r : piece.at(2)) {
        const ElementRun run = {r.at(0), r.at(1), r.at(2), r.at(3)};
        Fill(name, run, next, &f);
        next += run.num_elements() * static_cast<int64_t>(sizeof(double));
      }
    }
  }
  NamedTensors all;
  for (auto& [name, f] : filling) {
    OT_CHECK(f.num_filled == static_cast<int64_t>(f.is_filled.size()),
             "gradient of {}: {} of {} elements come from no rank", name,
             static_cast<int64_t>(f.is_filled.size()) - f.num_filled, f.is_filled.size());
    all[name] = std::move(f.tensor);
  }
  return all;
}

}  // namespace omnitrain
