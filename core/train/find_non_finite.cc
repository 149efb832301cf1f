#include <algorithm>
#include <cmath>

#include "core/train/step_executor.h"

namespace omnitrain {
namespace {

bool AllFinite(Context& ctx, const Tensor& t) {
  std::vector<char> host(static_cast<size_t>(t.num_bytes()));
  ctx.device().Copy(host.data(), t.data, host.size(), ctx.stream());
  ctx.stream().Synchronize();
  bool finite = true;
  const auto look = [&](auto value) {
    using T = decltype(value);
    const T* x = reinterpret_cast<const T*>(host.data());
    for (int64_t i = 0; i < t.num_elements() && finite; ++i) {
      if constexpr (std::is_same_v<T, BFloat16>) {
        finite = std::isfinite(ToFloat(x[i]));
      } else {
        finite = std::isfinite(x[i]);
      }
    }
  };
  if (t.dtype == DType::kBF16) {
    look(BFloat16{});
  } else {
    DispatchReal(t.dtype, look);
  }
  return finite;
}

}  // namespace

StepExecutor::NonFinite StepExecutor::FindNonFinite(const MicroBatch& batch) {
  // Whatever is found on the way, this rank takes its part in the forward.
  NonFinite found;
  const auto note = [&](NonFinite::Distance distance, const std::string& where) {
    if (found.distance == NonFinite::kNowhere) found = {distance, where};
  };
  const auto check = [&](const Tensor& t, const std::string& name,
                         NonFinite::Distance distance = NonFinite::kComputed) {
    if (found.distance != NonFinite::kNowhere || !t || t.num_elements() == 0) return;
    if (!AllFinite(ctx_, t)) note(distance, name);
  };
  const ParamStore& params = model_.params();
  for (ParamId id = 0; id < params.num_params(); ++id) {
    check(params.kept(id).values, "parameter " + params.spec(id).name, NonFinite::kStored);
  }
  const std::vector<float>& pixels = batch.items.patches;
  const bool is_clear =
      std::all_of(pixels.begin(), pixels.end(), [](float value) { return std::isfinite(value); });
  if (!is_clear) note(NonFinite::kStored, "the pixels of an item");
  const auto check_layers = [&](const StackActivations& stack, int begin, const char* name) {
    for (size_t i = 0; i < stack.layers.size(); ++i) {
      const LayerActivations& a = stack.layers[i];
      const int layer = begin + static_cast<int>(i);
      check(a.x, fmt::format("input of {} layer {}", name, layer));
      // What layers share is of the last of them.
      if (a.recompute == Recompute::kFull) continue;
      check(a.o, fmt::format("attention of {} layer {}", name, layer));
      if (a.recompute != Recompute::kNone) continue;
      check(a.act, fmt::format("mlp of {} layer {}", name, layer));
    }
  };
  set_forward_observer([&](const ForwardView& view) {
    if (view.llm == nullptr) {
      check_layers(slots_.at(view.micro_batch).vision.stack, 0, "vision");
      for (size_t k = 0; k < view.encoded->size(); ++k) {
        check((*view.encoded)[k], fmt::format("vision feature {}", k));
      }
      return;
    }
    check_layers(view.llm->stack, model_.llm().LayersOf(view.llm->stage).begin, "llm");
    check(view.llm->hidden, "llm final norm");
  });
  const double loss = Evaluate({batch})[0];
  set_forward_observer(nullptr);
  if (!std::isfinite(loss)) note(NonFinite::kLoss, "the logits or the loss");
  return found;
}

}  // namespace omnitrain
