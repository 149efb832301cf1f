#include "core/model/moe_block.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "parallel/comm/inprocess_communicator.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

using V = std::vector<double>;
constexpr int64_t kWidth = 6, kExperts = 8, kTopK = 3, kFfn = 5;
constexpr double kScale = 0.7;

/// Values, or gradients, of a whole block.
struct Parameters {
  V router, gate_up, down;

  static Parameters Random() {
    return {Array::Random(DType::kF64, {kExperts, kWidth}, 1).Values(),
            Array::Random(DType::kF64, {kExperts, 2 * kFfn, kWidth}, 2, 0, 0.5).Values(),
            Array::Random(DType::kF64, {kExperts, kWidth, kFfn}, 3, 0, 0.5).Values()};
  }
  static Parameters Zeros() {
    return {V(kExperts * kWidth), V(kExperts * 2 * kFfn * kWidth), V(kExperts * kWidth * kFfn)};
  }
};

/// One rank's block on the CPU, with everything that a layer would keep for it.
class TestBlock {
 public:
  explicit TestBlock(const AxisSeat& ep = {}, DType dtype = DType::kF64, bool is_frozen = false)
      : dtype(dtype), cpu(1), pool(*cpu.device), ep_(ep) {
    MoeConfig config;
    config.width = kWidth;
    config.num_experts = kExperts;
    config.top_k = kTopK;
    config.ffn = kFfn;
    block = MoeBlock(&store, "llm.layers.3", ParamGroup::kLlm, "layers.3.mlp", config, ep);
    ParamStore::AllocateOptions options;
    options.dtype = dtype;
    options.frozen[static_cast<int>(ParamGroup::kLlm)] = is_frozen;
    store.Allocate(*cpu.device, options);
  }

  void Load(const Parameters& p) {
    Set(store.value(0), p.router, 0);
    Set(store.value(1), p.gate_up, ep_.rank * store.value(1).num_elements());
    Set(store.value(2), p.down, ep_.rank * store.value(2).num_elements());
  }
  /// += this rank's gradients, each at its place in the whole.
  void AddGrads(Parameters* sum) const {
    Add(store.grad(0), 0, &sum->router);
    Add(store.grad(1), ep_.rank * store.grad(1).num_elements(), &sum->gate_up);
    Add(store.grad(2), ep_.rank * store.grad(2).num_elements(), &sum->down);
  }
  MoeActivations Activations(int64_t rows, MoeRecompute recompute = MoeRecompute::kNone) {
    Carver size;
    block.Carve(size, rows, recompute);
    blocks_.emplace_back(*cpu.device, size.used());
    Carver carver(blocks_.back().data(), blocks_.back().bytes(), DeviceKind::kCpu);
    return block.Carve(carver, rows, recompute);
  }

  const DType dtype;
  CpuContext cpu;
  ParamStore store;
  MoeBlock block;
  BlockPool pool;

 private:
  static void Set(const Tensor& to, const V& whole, int64_t begin) {
    DispatchReal(to.dtype, [&](auto zero) {
      using S = decltype(zero);
      for (int64_t i = 0; i < to.num_elements(); ++i) {
        to.ptr<S>()[i] = static_cast<S>(whole[static_cast<size_t>(begin + i)]);
      }
    });
  }
  static void Add(const Tensor& from, int64_t begin, V* whole) {
    for (int64_t i = 0; i < from.num_elements(); ++i) {
      (*whole)[static_cast<size_t>(begin + i)] += ElementAt(from, i);
    }
  }

  AxisSeat ep_;
  std::vector<Buffer> blocks_;
};

/// What a pass over some rows gives.
struct Pass {
  V y, dx;
  double loss = 0;
  Parameters grads = Parameters::Zeros();
};

struct Inputs {
  Array x, dy;  // [T, D]
  int64_t num_real = 0;
  Inputs(int64_t rows, int64_t num_real, DType dtype = DType::kF64)
      : x(Array::Random(dtype, {rows, kWidth}, 4, 2)),
        dy(Array::Random(dtype, {rows, kWidth}, 5, 1)),
        num_real(num_real) {}
  int64_t rows() const { return (*x).rows(); }
};

Pass Run(TestBlock& b, const Inputs& in, MoeBalance balance,
         MoeRecompute recompute = MoeRecompute::kNone) {
  Pass pass;
  Array y(b.dtype, {in.rows(), kWidth}), dx = y;
  balance.loss_sum = Tensor(&pass.loss, DType::kF64, {1});
  MoeActivations acts = b.Activations(in.rows(), recompute);
  b.block.Forward(b.cpu.ctx, b.pool, *in.x, balance, Write::kOverwrite, *y, &acts);
  b.block.InputGrad(b.cpu.ctx, b.pool, *in.dy, Write::kOverwrite, *dx, &acts);
  b.block.WeightGrad(b.cpu.ctx, b.pool, *in.x, &acts);
  pass.y = y.Values();
  pass.dx = dx.Values();
  b.AddGrads(&pass.grads);
  return pass;
}

Pass Run(TestBlock& b, const Inputs& in, MoeRecompute recompute = MoeRecompute::kNone) {
  MoeBalance balance;
  balance.scale = kScale;
  balance.num_rows_here = balance.num_rows = in.num_real;
  return Run(b, in, balance, recompute);
}

bool BitEqual(const Pass& a, const Pass& b) {
  return a.y == b.y && a.dx == b.dx && a.loss == b.loss && a.grads.router == b.grads.router &&
         a.grads.gate_up == b.grads.gate_up && a.grads.down == b.grads.down;
}

TEST_CASE("Gradients of a whole block, router and balance loss included, by central differences") {
  Parameters p = Parameters::Random();
  Inputs in(11, 8);
  const auto objective = [&] {
    TestBlock b;
    b.Load(p);
    const Pass pass = Run(b, in);
    double sum = pass.loss;
    for (size_t i = 0; i < pass.y.size(); ++i) {
      sum += pass.y[i] * in.dy.at(static_cast<int64_t>(i));
    }
    return sum;
  };
  const auto differences = [&](size_t n, const std::function<double(size_t)>& get,
                               const std::function<void(size_t, double)>& set) {
    constexpr double kStep = 1e-6;
    V d(n);
    for (size_t i = 0; i < n; ++i) {
      const double kept = get(i);
      set(i, kept + kStep);
      const double above = objective();
      set(i, kept - kStep);
      d[i] = (above - objective()) / (2 * kStep);
      set(i, kept);
    }
    return d;
  };
  const auto of = [&](V* v) {
    return differences(
        v->size(), [v](size_t i) { return (*v)[i]; }, [v](size_t i, double x) { (*v)[i] = x; });
  };
  TestBlock b;
  b.Load(p);
  const Pass pass = Run(b, in);
  CHECK(pass.loss > 0);
  const Bound bound{1e-7, 0, 1e-7};
  CHECK(Compare(pass.grads.router, of(&p.router), bound));
  CHECK(Compare(pass.grads.gate_up, of(&p.gate_up), bound));
  CHECK(Compare(pass.grads.down, of(&p.down), bound));
  CHECK(Compare(pass.dx,
                differences(
                    pass.dx.size(), [&](size_t i) { return in.x.at(static_cast<int64_t>(i)); },
                    [&](size_t i, double x) { in.x.at(static_cast<int64_t>(i), x); }),
                bound));
}

TEST_CASE("Outputs by their definition, and the balance loss, over rows that are no padding") {
  const Parameters p = Parameters::Random();
  const Inputs in(11, 8);
  TestBlock b;
  b.Load(p);
  V times(kExperts), sums(kExperts), y(static_cast<size_t>(in.rows() * kWidth));
  for (int64_t t = 0; t < in.rows(); ++t) {
    V likelihood(kExperts);
    double all = 0;
    for (size_t e = 0; e < kExperts; ++e) {
      for (size_t i = 0; i < kWidth; ++i) {
        likelihood[e] += p.router[e * kWidth + i] * in.x.at(t * kWidth + static_cast<int64_t>(i));
      }
      likelihood[e] = std::exp(likelihood[e]);
      all += likelihood[e];
    }
    V chosen = likelihood;
    std::sort(chosen.rbegin(), chosen.rend());
    const double chosen_sum = chosen[0] + chosen[1] + chosen[2];
    for (size_t e = 0; e < kExperts; ++e) {
      const bool is_chosen = likelihood[e] >= chosen[kTopK - 1];
      if (t < in.num_real) {
        times[e] += is_chosen ? 1 : 0;
        sums[e] += likelihood[e] / all;
      }
      if (!is_chosen) continue;
      for (size_t f = 0; f < kFfn; ++f) {
        double gate = 0, up = 0;
        for (size_t i = 0; i < kWidth; ++i) {
          const double xi = in.x.at(t * kWidth + static_cast<int64_t>(i));
          gate += p.gate_up[(e * 2 * kFfn + f) * kWidth + i] * xi;
          up += p.gate_up[(e * 2 * kFfn + kFfn + f) * kWidth + i] * xi;
        }
        const double h = gate / (1 + std::exp(-gate)) * up;
        for (size_t i = 0; i < kWidth; ++i) {
          y[static_cast<size_t>(t) * kWidth + i] +=
              likelihood[e] / chosen_sum * h * p.down[(e * kWidth + i) * kFfn + f];
        }
      }
    }
  }
  double loss = 0;
  const auto n = static_cast<double>(in.num_real);
  for (size_t e = 0; e < kExperts; ++e) loss += kExperts * (times[e] / n) * (sums[e] / n);
  const Pass pass = Run(b, in);
  CHECK(Compare(pass.y, y, {1e-13}));
  CHECK(pass.loss == Approx(kScale * loss).epsilon(1e-13));
  CHECK(Run(b, in, MoeBalance()).loss == 0);
}

TEST_CASE("Equal bits twice, recomputing or not; the pool does not grow") {
  const Parameters p = Parameters::Random();
  const Inputs in(17, 17);
  TestBlock b;
  b.Load(p);
  const Pass first = Run(b, in);
  const size_t bytes = b.pool.bytes();
  CHECK(b.pool.idle_bytes() == bytes);
  b.store.ZeroGrads(*b.cpu.stream);
  CHECK(BitEqual(Run(b, in), first));
  b.store.ZeroGrads(*b.cpu.stream);
  CHECK(BitEqual(Run(b, in, MoeRecompute::kCheapParts), first));
  CHECK(b.pool.bytes() == bytes);
  CHECK(b.pool.idle_bytes() == bytes);
  b.pool.ReleaseIdle();
  CHECK(b.pool.bytes() == 0);
}

TEST_CASE("Outputs and gradients at inputs are added where asked") {
  const Parameters p = Parameters::Random();
  const Inputs in(5, 5);
  TestBlock b;
  b.Load(p);
  const Pass want = Run(b, in, MoeBalance());
  Array y = Array::Filled(DType::kF64, {5, kWidth}, 2, 3);
  Array dx = Array::Filled(DType::kF64, {5, kWidth}, -1, 1);
  MoeActivations acts = b.Activations(5);
  b.block.Forward(b.cpu.ctx, b.pool, *in.x, {}, Write::kAccumulate, *y, &acts);
  b.block.InputGrad(b.cpu.ctx, b.pool, *in.dy, Write::kAccumulate, *dx, &acts);
  acts.Release();
  CHECK(b.pool.idle_bytes() == b.pool.bytes());
  V y_want = want.y, dx_want = want.dx;
  for (double& v : y_want) v += 2;
  for (double& v : dx_want) v -= 1;
  CHECK(Compare(y.Values(), y_want, {1e-14}));
  CHECK(Compare(dx.Values(), dx_want, {1e-14}));
}

TEST_CASE("The halves of two micro-batches' backward in any order") {
  const Parameters p = Parameters::Random();
  const Inputs a(9, 9), c(4, 2);
  for (const MoeRecompute recompute : {MoeRecompute::kNone, MoeRecompute::kCheapParts}) {
    TestBlock apart, together;
    apart.Load(p);
    together.Load(p);
    Run(together, a);
    const Pass want = Run(together, c);  // its gradients are of both
    double loss = 0;
    const auto balance = [&](const Inputs& in) {
      MoeBalance b;
      b.scale = kScale;
      b.num_rows_here = b.num_rows = in.num_real;
      b.loss_sum = Tensor(&loss, DType::kF64, {1});
      return b;
    };
    MoeActivations acts_a = apart.Activations(9, recompute),
                   acts_c = apart.Activations(4, recompute);
    Array y(DType::kF64, {9, kWidth}), dx = y;
    Context& ctx = apart.cpu.ctx;
    const auto forward = [&](const Inputs& in, MoeActivations* acts) {
      apart.block.Forward(ctx, apart.pool, *in.x, balance(in), Write::kOverwrite,
                          (*y).Rows(0, in.rows()), acts);
    };
    const auto input_grad = [&](const Inputs& in, MoeActivations* acts) {
      apart.block.InputGrad(ctx, apart.pool, *in.dy, Write::kOverwrite, (*dx).Rows(0, in.rows()),
                            acts);
    };
    forward(a, &acts_a);
    forward(c, &acts_c);
    input_grad(c, &acts_c);
    input_grad(a, &acts_a);
    apart.block.WeightGrad(ctx, apart.pool, *a.x, &acts_a);
    apart.block.WeightGrad(ctx, apart.pool, *c.x, &acts_c);
    Parameters got = Parameters::Zeros();
    apart.AddGrads(&got);
    CHECK(Compare(got.router, want.grads.router, {1e-13}));
    CHECK(Compare(got.gate_up, want.grads.gate_up, {1e-13}));
    CHECK(Compare(got.down, want.grads.down, {1e-13}));
  }
}

TEST_CASE("f32 is near f64; frozen parameters pass gradients on and get none; no rows are legal") {
  const Parameters p = Parameters::Random();
  TestBlock f64, f32({}, DType::kF32), frozen({}, DType::kF64, true), empty;
  for (TestBlock* b : {&f64, &f32, &frozen, &empty}) b->Load(p);
  const Pass want = Run(f64, Inputs(13, 12)), got = Run(f32, Inputs(13, 12, DType::kF32));
  CHECK(Compare(got.y, want.y, {1e-5}));
  CHECK(Compare(got.dx, want.dx, {1e-5}));
  CHECK(Compare(got.grads.gate_up, want.grads.gate_up, {1e-5}));
  CHECK(Compare(got.grads.router, want.grads.router, {1e-5}));

  const Inputs in(13, 12);
  for (const MoeRecompute recompute : {MoeRecompute::kNone, MoeRecompute::kCheapParts}) {
    Array y(DType::kF64, {13, kWidth}), dx = y;
    double loss = 0;
    MoeBalance balance{kScale, 12, 12, nullptr, Tensor(&loss, DType::kF64, {1})};
    MoeActivations acts = frozen.Activations(13, recompute);
    frozen.block.Forward(frozen.cpu.ctx, frozen.pool, *in.x, balance, Write::kOverwrite, *y, &acts);
    frozen.block.InputGrad(frozen.cpu.ctx, frozen.pool, *in.dy, Write::kOverwrite, *dx, &acts);
    frozen.block.WeightGrad(frozen.cpu.ctx, frozen.pool, *in.x, &acts);
    CHECK(dx.Values() == want.dx);
    CHECK(frozen.pool.idle_bytes() == frozen.pool.bytes());
  }
  const Pass none = Run(empty, Inputs(0, 0));
  CHECK(none.loss == 0);
  CHECK(none.grads.gate_up == Parameters::Zeros().gate_up);
}

struct Split {
  std::vector<int64_t> rows;  // of each rank
  int64_t num_real = 0;       // of all rows, the first
  int starved_rank = -1;      // whose experts nobody chooses
  DType dtype = DType::kF64;
  MoeRecompute recompute = MoeRecompute::kNone;
};

Array RowsOf(const Array& all, int64_t begin, int64_t count) {
  Array rows((*all).dtype, {count, kWidth});
  for (int64_t i = 0; i < count * kWidth; ++i) rows.at(i, all.at(begin * kWidth + i));
  return rows;
}

/// The pass of all ranks: outputs in the order of ranks, losses and gradients added up.
Pass RunSplit(const Split& split, const Parameters& p, const Inputs& all,
              std::vector<int64_t>* received = nullptr) {
  const auto num_ranks = split.rows.size();
  std::vector<Pass> passes(num_ranks);
  std::vector<int64_t> num_received(num_ranks);
  InProcessWorld world(static_cast<int>(num_ranks), std::chrono::milliseconds(20000));
  world.Run([&](Communicator& comm) {
    const auto rank = static_cast<size_t>(comm.rank());
    int64_t begin = 0;
    for (size_t r = 0; r < rank; ++r) begin += split.rows[r];
    Inputs mine(0, 0);
    mine.x = RowsOf(all.x, begin, split.rows[rank]);
    mine.dy = RowsOf(all.dy, begin, split.rows[rank]);
    MoeBalance balance;
    balance.scale = kScale;
    balance.num_rows_here =
        std::min(std::max<int64_t>(split.num_real - begin, 0), split.rows[rank]);
    balance.num_rows = split.num_real;
    balance.comm = &comm;
    TestBlock b(AxisSeat{comm.size(), comm.rank(), &comm});
    b.Load(p);
    passes[rank] = Run(b, mine, balance, split.recompute);
    if (b.pool.idle_bytes() != b.pool.bytes()) Fail(ErrorCode::kInternal, "memory is still held");

    MoeActivations acts = b.Activations(mine.rows());
    Array y(DType::kF64, {mine.rows(), kWidth});
    b.block.Forward(b.cpu.ctx, b.pool, *mine.x, {}, Write::kOverwrite, *y, &acts);
    num_received[rank] = acts.route.num_received();
  });
  if (received != nullptr) *received = num_received;
  Pass sum;
  for (const Pass& pass : passes) {
    sum.y.insert(sum.y.end(), pass.y.begin(), pass.y.end());
    sum.dx.insert(sum.dx.end(), pass.dx.begin(), pass.dx.end());
    sum.loss += pass.loss;
    const auto add = [](const V& from, V* to) {
      for (size_t i = 0; i < to->size(); ++i) (*to)[i] += from[i];
    };
    add(pass.grads.router, &sum.grads.router);
    add(pass.grads.gate_up, &sum.grads.gate_up);
    add(pass.grads.down, &sum.grads.down);
  }
  return sum;
}

TEST_CASE("Experts shared out over ranks give what one rank gives") {
  const std::vector<Split> splits = {
      {{9, 4}, 11, -1},
      {{0, 13}, 13, -1},
      {{5, 0, 7, 1}, 11, -1},
      {{5, 0, 7, 1}, 13, 2},
      {{3, 3, 4, 3}, 10, 0, DType::kF64, MoeRecompute::kCheapParts},
      {{0, 0}, 0, -1},
  };
  for (const Split& split : splits) {
    int64_t num_rows = 0;
    for (const int64_t n : split.rows) num_rows += n;
    const auto num_ranks = static_cast<int64_t>(split.rows.size());
    CAPTURE(split.rows, split.starved_rank);
    Parameters p = Parameters::Random();
    Inputs in(num_rows, split.num_real);
    if (split.starved_rank >= 0) {
      for (int64_t t = 0; t < num_rows; ++t) in.x.at(t * kWidth, 1);
      const int64_t here = kExperts / num_ranks;
      for (int64_t e = split.starved_rank * here; e < (split.starved_rank + 1) * here; ++e) {
        p.router[static_cast<size_t>(e * kWidth)] = -40;
      }
    }
    TestBlock alone;
    alone.Load(p);
    const Pass want = Run(alone, in);
    std::vector<int64_t> received;
    const Pass got = RunSplit(split, p, in, &received);
    const Bound bound{1e-12};
    CHECK(Compare(got.y, want.y, bound));
    CHECK(Compare(got.dx, want.dx, bound));
    CHECK(got.loss == Approx(want.loss).epsilon(1e-13));
    CHECK(Compare(got.grads.router, want.grads.router, bound));
    CHECK(Compare(got.grads.gate_up, want.grads.gate_up, bound));
    CHECK(Compare(got.grads.down, want.grads.down, bound));
    int64_t num_received = 0;
    for (const int64_t n : received) num_received += n;
    CHECK(num_received == num_rows * kTopK);
    if (split.starved_rank >= 0) CHECK(received[static_cast<size_t>(split.starved_rank)] == 0);
    CHECK(BitEqual(RunSplit(split, p, in), got));
  }
}

TEST_CASE("Parameters are declared with the region of the stored tensors that a rank holds") {
  TestBlock b(AxisSeat{4, 2, nullptr});
  REQUIRE(b.store.num_params() == 3);
  const ParamSpec &router = b.store.spec(0), &gate_up = b.store.spec(1), &down = b.store.spec(2);
  CHECK(router.name == "llm.layers.3.router.weight");
  CHECK(router.sharing == ParamSharing::kWhole);
  CHECK(router.hf_parts.at(0).name == "layers.3.mlp.gate.weight");
  CHECK(router.hf_parts.at(0).num_rows == kExperts);
  CHECK(gate_up.name == "llm.layers.3.experts.gate_up.weight");
  CHECK(gate_up.sharing == ParamSharing::kExperts);
  CHECK(gate_up.shape == Shape{2, 2 * kFfn, kWidth});
  const HfPart& part = gate_up.hf_parts.at(0);
  CHECK(part.name == "layers.3.mlp.experts.gate_up_proj");
  CHECK(part.shape == std::vector<int64_t>{kExperts, 2 * kFfn, kWidth});
  CHECK(part.first_row == 4);
  CHECK(part.num_rows == 2);
  CHECK(down.shape == Shape{2, kWidth, kFfn});
  CHECK(down.hf_parts.at(0).name == "layers.3.mlp.experts.down_proj");
  CHECK(down.hf_parts.at(0).shape == std::vector<int64_t>{kExperts, kWidth, kFfn});
  CHECK_THROWS_WITH(TestBlock(AxisSeat{3, 0, nullptr}),
                    Catch::Contains("parallel.llm.ep: 8 experts do not split over ep=3"));
}

}  // namespace
}  // namespace omnitrain
