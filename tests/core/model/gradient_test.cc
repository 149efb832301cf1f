#include <cmath>

#include "core/train/step_executor.h"
#include "parallel/comm/inprocess_communicator.h"
#include "tests/core/model/tiny_model.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

struct Frozen {
  bool vision = false, projector = false, llm = false;
};

/// A model of noise, its gradients on two packed micro-batches with images of odd grids, and its
/// loss as a function of any parameter.
class WholeModel {
 public:
  WholeModel(bool is_tied, const Frozen& frozen, bool has_loss_weights)
      : WholeModel(TinyModel(is_tied), frozen, has_loss_weights) {}
  WholeModel(const ModelConfig& config, const Frozen& frozen, bool has_loss_weights)
      : model_(config), executor_(cpu_.ctx, model_), self_(NewSelfCommunicator()) {
    ParamStore::AllocateOptions options;
    options.dtype = DType::kF64;
    options.frozen[static_cast<int>(ParamGroup::kVision)] = frozen.vision;
    options.frozen[static_cast<int>(ParamGroup::kProjector)] = frozen.projector;
    options.frozen[static_cast<int>(ParamGroup::kLlm)] = frozen.llm;
    options.bucket_elements = 500;
    params().Allocate(*cpu_.device, options);
    FillWithNoise(params(), 3);
    batches_ = {
        TinyBatch(model_.config(), {{{{1, 2, 6}}, 1, 3}, {{}, 3, 2}, {{{1, 6, 10}}, 2, 5}}, 4),
        TinyBatch(model_.config(), {{{{1, 2, 2}, {1, 10, 2}}, 0, 3}}, 5)};  // and a row of padding
    if (has_loss_weights) {
      for (MicroBatch& batch : batches_) {
        for (int64_t i = 0; i < batch.num_tokens(); ++i) {
          batch.loss_weights.push_back(0.25f * static_cast<float>(i % 5));
        }
      }
    }
    optimizer_ = std::make_unique<ShardedAdamW>(cpu_.ctx, params(), *self_, AdamWConfig());
    loss_ = Train();
    for (ParamId id = 0; id < params().num_params(); ++id) {
      const Tensor& grad = params().grad(id);
      grads_.emplace_back();
      if (grad) grads_.back().assign(grad.ptr<double>(), grad.ptr<double>() + grad.num_elements());
    }
  }

  ParamStore& params() { return model_.params(); }
  const TextConfig& text() const { return model_.config().text; }
  const std::vector<MicroBatch>& batches() const { return batches_; }
  StepExecutor& executor() { return executor_; }
  double loss() const { return loss_; }
  /// Of the values that the model was made with; empty for a frozen parameter.
  const std::vector<double>& grad(ParamId id) const { return grads_[static_cast<size_t>(id)]; }
  /// The loss that gradients are of.
  double Train() { return executor_.Gradients(batches_, *optimizer_); }
  /// The loss of the tokens alone.
  double Evaluate() {
    double sum = 0;
    for (double loss : executor_.Evaluate(batches_)) sum += loss;
    return sum;
  }

  /// d loss / d t of value + t * direction at t = 0, by differences of fourth order.
  /// Source: Fornberg 1988, table 1.
  double Derivative(ParamId id, const std::vector<double>& direction) {
    double* value = params().value(id).ptr<double>();
    const std::vector<double> old(value, value + direction.size());
    const auto loss_at = [&](double t) {
      for (size_t i = 0; i < old.size(); ++i) value[i] = old[i] + t * direction[i];
      return text().num_experts > 0 ? Train() : Evaluate();
    };
    constexpr double h = 5e-4;
    const double slope =
        (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
    std::copy(old.begin(), old.end(), value);
    return slope;
  }

 private:
  CpuContext cpu_;
  MultimodalModel model_;
  StepExecutor executor_;
  std::unique_ptr<Communicator> self_;
  std::unique_ptr<ShardedAdamW> optimizer_;
  std::vector<MicroBatch> batches_;
  double loss_ = 0;
  std::vector<std::vector<double>> grads_;
};

/// Every trained parameter, along single elements and along one direction that all its elements
/// take part in.
void CheckGradients(WholeModel& whole) {
  constexpr double kBound = 2e-9;  // of the norm of the gradient
  ParamStore& params = whole.params();
  CHECK(whole.loss() > 10);
  for (ParamId id = 0; id < params.num_params(); ++id) {
    INFO(params.spec(id).name);
    if (params.is_frozen(id)) {
      CHECK_FALSE(params.grad(id));
      continue;
    }
    const int64_t n = params.spec(id).shape.num_elements();
    const std::vector<double>& grad = whole.grad(id);
    double norm = 0;
    for (int64_t i = 0; i < n; ++i) norm += grad[i] * grad[i];
    norm = std::sqrt(norm);
    CHECK(norm > 1e-4);  // otherwise the bound below says nothing

    std::vector<double> direction(static_cast<size_t>(n));
    double want = 0, length = 0;
    for (int64_t i = 0; i < n; ++i) {
      direction[i] = RandomNormal(7, static_cast<uint64_t>(id), i);
      length += direction[i] * direction[i];
    }
    for (int64_t i = 0; i < n; ++i) {
      direction[i] /= std::sqrt(length);
      want += grad[i] * direction[i];
    }
    const double along = whole.Derivative(id, direction);
    INFO("along a direction: " << along << ", from the gradient: " << want << ", norm " << norm);
    CHECK(std::fabs(along - want) <= kBound * norm);

    // The largest element, which a random choice in a sparse gradient would miss, and two others.
    int64_t largest = 0;
    for (int64_t i = 1; i < n; ++i) {
      if (std::fabs(grad[i]) > std::fabs(grad[largest])) largest = i;
    }
    for (const int64_t at : {largest, n / 3, n - 1}) {
      std::vector<double> unit(static_cast<size_t>(n));
      unit[at] = 1;
      const double slope = whole.Derivative(id, unit);
      INFO("element " << at << ": " << slope << ", gradient " << grad[at] << ", norm " << norm);
      CHECK(std::fabs(slope - grad[at]) <= kBound * norm);
    }
  }
}

TEST_CASE("the gradient of every parameter is the slope of the loss") {
  const bool is_tied = GENERATE(true, false);
  CAPTURE(is_tied);
  WholeModel whole(is_tied, {}, /*has_loss_weights=*/false);
  CHECK(whole.params().num_params() == (is_tied ? 57 : 58));
  CHECK(std::fabs(whole.Evaluate() - whole.loss()) <= 1e-12 * whole.loss());
  CheckGradients(whole);
}

TEST_CASE("gradients of a model with experts, of the loss that balances them too") {
  ModelConfig config = TinyModel(/*is_tied=*/true);
  MakeSparse(&config.text);
  WholeModel whole(config, {}, /*has_loss_weights=*/true);
  // The loss by its definition, from what the routers chose; the last rows are padding.
  double balance = 0;
  whole.executor().set_forward_observer([&](const StepExecutor::ForwardView& view) {
    if (view.llm == nullptr) return;
    const MicroBatch& batch = whole.batches()[static_cast<size_t>(view.micro_batch)];
    const int64_t N = batch.cu_seqlens[batch.sample_ids.size()], E = config.text.num_experts;
    for (const LayerActivations& layer : view.llm->stack.layers) {
      if (layer.moe == nullptr) continue;
      const Tensor &probs = layer.moe->probs, &chosen = layer.moe->expert_ids;
      for (int64_t e = 0; e < E; ++e) {
        double times = 0, sum = 0;
        for (int64_t t = 0; t < N; ++t) {
          sum += probs.row<double>(t)[e];
          for (int64_t k = 0; k < 2; ++k) times += chosen.row<int32_t>(t)[k] == e ? 1 : 0;
        }
        balance += 0.3 * static_cast<double>(batch.num_loss_tokens()) / 2 * static_cast<double>(E) *
                   times * sum / static_cast<double>(N * N);
      }
    }
  });
  const double token_loss = whole.Evaluate();
  whole.executor().set_forward_observer(nullptr);
  CHECK(balance > 1);
  CHECK(std::fabs(token_loss + balance - whole.loss()) <= 1e-12 * whole.loss());
  CheckGradients(whole);
}

TEST_CASE("the gradient of a weighted loss") {
  WholeModel whole(/*is_tied=*/true, {}, /*has_loss_weights=*/true);
  CheckGradients(whole);
}

TEST_CASE("gradients next to frozen parts") {
  Frozen frozen;
  SECTION("vision layers") { frozen.vision = true; }
  SECTION("all of the encoder") { frozen.vision = frozen.projector = true; }
  SECTION("projector") { frozen.projector = true; }
  SECTION("llm") { frozen.llm = true; }
  SECTION("all but the projector") { frozen.vision = frozen.llm = true; }
  WholeModel whole(/*is_tied=*/false, frozen, /*has_loss_weights=*/false);
  WholeModel trained(/*is_tied=*/false, {}, /*has_loss_weights=*/false);
  CHECK(whole.loss() == trained.loss());
  ParamStore& params = whole.params();
  for (ParamId id = 0; id < params.num_params(); ++id) {
    INFO(params.spec(id).name);
    CHECK(static_cast<bool>(params.grad(id)) == !params.is_frozen(id));
    if (params.is_frozen(id)) continue;
    // What is frozen changes what is computed, never its value.
    CHECK(whole.grad(id) == trained.grad(id));
  }
}

TEST_CASE("gradients do not depend on how samples are packed") {
  const auto gradients = [](bool is_packed) {
    CpuContext cpu;
    MultimodalModel model(TinyModel(true));
    ParamStore::AllocateOptions options;
    options.dtype = DType::kF64;
    model.params().Allocate(*cpu.device, options);
    FillWithNoise(model.params(), 3);
    const TinySample a{{{1, 6, 2}}, 1, 3}, b{{}, 3, 2};
    MicroBatch both = TinyBatch(model.config(), {a, b}, 4);
    std::vector<MicroBatch> batches{both};
    if (!is_packed) {
      // The same rows again with the other sample's labels taken out, in either turn.
      batches.push_back(both);
      for (int32_t i = 0; i < both.num_tokens(); ++i) {
        batches[i < both.cu_seqlens[1] ? 1 : 0].labels[i] = -1;
      }
      batches.emplace_back();
      batches.back().items.patch_dim = model.config().vision.patch_dim();
    }
    const auto self = NewSelfCommunicator();
    ShardedAdamW optimizer(cpu.ctx, model.params(), *self, AdamWConfig());
    StepExecutor(cpu.ctx, model).Gradients(batches, optimizer);
    std::vector<double> flat;
    for (const ParamBucket& bucket : model.params().buckets()) {
      const Tensor grads = model.params().bucket_grads(bucket);
      flat.insert(flat.end(), grads.ptr<double>(), grads.ptr<double>() + grads.num_elements());
    }
    return flat;
  };
  const std::vector<double> packed = gradients(true), apart = gradients(false);
  REQUIRE(packed.size() == apart.size());
  double squares = 0, difference = 0;
  for (size_t i = 0; i < packed.size(); ++i) {
    squares += packed[i] * packed[i];
    difference += (packed[i] - apart[i]) * (packed[i] - apart[i]);
  }
  CHECK(squares > 1);
  CHECK(std::sqrt(difference) <= 1e-13 * std::sqrt(squares));
}

}  // namespace
}  // namespace omnitrain
