#include "kernels/cross_entropy/cross_entropy.h"

#include <cmath>
#include <vector>

#include "parallel/comm/inprocess_communicator.h"
#include "tests/kernels/common/arrays.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"

namespace omnitrain {
namespace {

struct Problem {
  Problem(DType dtype_, int64_t rows_, int64_t width_, int64_t vocabulary_, int64_t gap = 0)
      : dtype(dtype_),
        rows(rows_),
        width(width_),
        vocabulary(vocabulary_),
        h(Array::Random(dtype, {rows, width}, 1, gap)),
        w(Array::Random(dtype, {vocabulary, width}, 2, 0, 0.3)),
        labels(static_cast<size_t>(rows)),
        weights(static_cast<size_t>(rows)),
        loss(Array::Filled(DType::kF64, {1}, 2.5)),
        dh(dtype, {rows, width}, gap),
        dw(Array::Random(dtype, {vocabulary, width}, 3)) {
    for (int64_t i = 0; i < rows; ++i) {
      const uint64_t at = static_cast<uint64_t>(i);
      const auto n = static_cast<uint64_t>(vocabulary);
      const double label = static_cast<double>(RandomBits(17, 4, at) % n);
      labels[at] = RandomUniform(17, 5, at) < 0.3 ? -100 : label;
      weights[at] = static_cast<float>(RandomUniform(17, 6, at) * 2);
    }
  }
  void Run(Context& ctx, bool has_weights = true) { Run(ctx, has_weights, *loss, *dh, *dw); }
  void Run(Context& ctx, bool has_weights, Tensor loss_to, Tensor dh_to, Tensor dw_to,
           const VocabShard* shard = nullptr) {
    std::vector<double> rows_list, label_list, weight_list;
    for (size_t i = 0; i < labels.size(); ++i) {
      if (labels[i] < 0) continue;
      rows_list.push_back(static_cast<double>(i));
      label_list.push_back(labels[i]);
      weight_list.push_back(weights[i]);
    }
    const Shape shape{static_cast<int64_t>(rows_list.size())};
    Array r(DType::kI32, shape), l(DType::kI32, shape), x(DType::kF32, shape);
    r.SetValues(rows_list);
    l.SetValues(label_list);
    x.SetValues(weight_list);
    const Tensor slice =
        shard != nullptr ? (*w).Rows(shard->first, dw_to ? dw_to.rows() : shard->widest) : *w;
    LinearCrossEntropy(ctx, *h, slice, *r, *l, has_weights ? *x : Tensor(), loss_to, dh_to, dw_to,
                       shard);
  }

  DType dtype;
  int64_t rows, width, vocabulary;
  Array h, w;
  std::vector<double> labels, weights;  // by row; negative: no label
  Array loss, dh, dw;
};

/// By definition, in f64, on the values of p; p's outputs are replaced.
void Reference(Problem* p, bool has_weights) {
  const int64_t width = p->width;
  const std::vector<double> h = p->h.Values(), w = p->w.Values();
  std::vector<double> dh(h.size()), dw = p->dw.Values();
  for (int64_t i = 0; i < p->rows; ++i) {
    if (p->labels[i] < 0) continue;
    const double weight = has_weights ? p->weights[i] : 1;
    std::vector<double> z(static_cast<size_t>(p->vocabulary));
    double max = -INFINITY, sum = 0;
    for (int64_t v = 0; v < p->vocabulary; ++v) {
      for (int64_t d = 0; d < width; ++d) z[v] += h[i * width + d] * w[v * width + d];
      max = std::max(max, z[v]);
    }
    for (const double x : z) sum += std::exp(x - max);
    const auto label = static_cast<int64_t>(p->labels[i]);
    p->loss.at(0, p->loss.at(0) + weight * (max + std::log(sum) - z[label]));
    for (int64_t v = 0; v < p->vocabulary; ++v) {
      const double dz = weight * (std::exp(z[v] - max) / sum - (v == label ? 1 : 0));
      for (int64_t d = 0; d < width; ++d) {
        dh[i * width + d] += dz * w[v * width + d];
        dw[v * width + d] += dz * h[i * width + d];
      }
    }
  }
  p->dh.SetValues(dh);
  p->dw.SetValues(dw);
}

struct Sizes {
  int64_t rows, width, vocabulary, gap;
};
// The last one has more labelled rows than one chunk holds.
const Sizes kSizes[] = {
    {1, 1, 1, 0}, {0, 4, 9, 0}, {6, 5, 3, 2}, {40, 33, 257, 0}, {105, 3, 130001, 1}};

TEST_CASE("LinearCrossEntropy is the weighted loss of the head, with its gradients") {
  CpuContext cpu(2);
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    for (const auto [rows, width, vocabulary, gap] : kSizes) {
      for (const bool has_weights : {true, false}) {
        Problem got(dtype, rows, width, vocabulary, gap);
        Problem want(DType::kF64, rows, width, vocabulary, gap);
        got.Run(cpu.ctx, has_weights);
        Reference(&want, has_weights);
        INFO(DTypeName(dtype) << " " << rows << " x " << width << " -> " << vocabulary);
        const double eps = dtype == DType::kF32 ? 0x1p-23 : 0x1p-52;
        // The reference adds one by one: its own rounding grows with the vocabulary.
        const double terms = std::sqrt(static_cast<double>(vocabulary));
        const Bound bound{(50 + terms) * eps, 50 * eps, (12 + terms / 4) * eps};
        CHECK(Compare(*got.loss, *want.loss, {8 * eps, 8 * eps}));
        CHECK(Compare(*got.dh, *want.dh, bound));
        CHECK(Compare(*got.dw, *want.dw, bound));
      }
    }
  }
}

TEST_CASE("LinearCrossEntropy over slices of the vocabulary is that over the whole") {
  constexpr int kRanks = 3;
  for (const DType dtype : {DType::kF64, DType::kF32}) {
    // The last one has chunks of the smallest size, which differ where slices do.
    for (const auto [rows, width, vocabulary, gap] :
         {Sizes{0, 4, 9, 0}, Sizes{6, 5, 4, 2}, Sizes{40, 33, 257, 0}, Sizes{300, 3, 100001, 1}}) {
      Problem want(dtype, rows, width, vocabulary, gap);
      CpuContext cpu(1);
      want.Run(cpu.ctx);
      std::vector<Array> losses, dhs, dws;
      for (int rank = 0; rank < kRanks; ++rank) {
        losses.push_back(Array::Filled(DType::kF64, {1}, rank == 0 ? 2.5 : 0));
        dhs.emplace_back(dtype, Shape{rows, width}, gap);
      }
      Problem start(dtype, rows, width, vocabulary, gap);
      Array dw = start.dw;
      InProcessWorld(kRanks).Run([&](Communicator& comm) {
        CpuContext mine(1);
        Problem p(dtype, rows, width, vocabulary, gap);
        const int64_t begin = vocabulary * comm.rank() / kRanks;
        const int64_t end = vocabulary * (comm.rank() + 1) / kRanks;
        VocabShard shard{begin, vocabulary, (vocabulary + kRanks - 1) / kRanks, {}, {}};
        shard.max = [&](const Tensor& values) {
          comm.AllReduce(values, ReduceOp::kMax, mine.ctx.stream()).Wait(mine.ctx.stream());
        };
        shard.sum = [&](const Tensor& values) {
          comm.AllReduce(values, ReduceOp::kSum, mine.ctx.stream()).Wait(mine.ctx.stream());
        };
        p.Run(mine.ctx, true, *losses[comm.rank()], *dhs[comm.rank()],
              (*dw).Rows(begin, end - begin), &shard);
      });
      Array dh = dhs[0];
      for (int64_t i = 0; i < rows * width; ++i) {
        dh.at(i, dhs[0].at(i) + dhs[1].at(i) + dhs[2].at(i));
      }
      INFO(DTypeName(dtype) << " " << rows << " x " << width << " -> " << vocabulary);
      const double eps = dtype == DType::kF32 ? 0x1p-23 : 0x1p-52;
      CHECK(Compare(*losses[0], *want.loss, {20 * eps, 20 * eps}));
      CHECK(losses[1].at(0) == 0);
      CHECK(losses[2].at(0) == 0);
      CHECK(Compare(*dh, *want.dh, {100 * eps, 100 * eps, 40 * eps}));
      CHECK(Compare(*dw, *want.dw, {100 * eps, 100 * eps, 40 * eps}));
    }
  }
}

TEST_CASE("LinearCrossEntropy gives the same loss with any of its gradients absent") {
  CpuContext cpu;
  Problem p(DType::kF32, 50, 20, 300);
  Array loss_only = p.loss, loss_dh = p.loss, loss_dw = p.loss, dh = p.dh, dw = p.dw;
  p.Run(cpu.ctx, true, *loss_only, Tensor(), Tensor());
  p.Run(cpu.ctx, true, *loss_dh, *dh, Tensor());
  p.Run(cpu.ctx, true, *loss_dw, Tensor(), *dw);
  p.Run(cpu.ctx);
  CHECK(loss_only == p.loss);
  CHECK(loss_dh == p.loss);
  CHECK(loss_dw == p.loss);
  CHECK(dh == p.dh);
  CHECK(dw == p.dw);
}

TEST_CASE("LinearCrossEntropy repeats bit for bit and passes NaN on") {
  CpuContext cpu(2);
  Problem p(DType::kF32, 80, 24, 3000), again = p;
  p.Run(cpu.ctx);
  again.Run(cpu.ctx);
  CHECK(p.loss == again.loss);
  CHECK(p.dh == again.dh);
  CHECK(p.dw == again.dw);

  Problem bad(DType::kF64, 8, 5, 12);
  bad.labels[2] = 7;
  bad.h.at(2 * 5, std::nan(""));
  bad.Run(cpu.ctx);
  CHECK(std::isnan(bad.loss.at(0)));
  CHECK(std::isnan(bad.dh.at(2 * 5)));
  CHECK(std::isnan(bad.dw.at(7 * 5)));
}

TEST_CASE("LinearCrossEntropy takes logits that exp cannot hold") {
  CpuContext cpu;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    Problem got(dtype, 20, 6, 40), want(DType::kF64, 20, 6, 40);
    for (Problem* p : {&got, &want}) {
      for (int64_t i = 0; i < 20 * 6; ++i) p->h.at(i, 512 * p->h.at(i));
    }
    got.Run(cpu.ctx);
    Reference(&want, true);
    CHECK(Compare(*got.loss, *want.loss, {0, 1e-6}));
  }
}

TEST_CASE("LinearCrossEntropy refuses a label outside the vocabulary") {
  CpuContext cpu;
  Problem p(DType::kF32, 8, 5, 12);
  p.labels[3] = 12;
  CHECK_THROWS_WITH(p.Run(cpu.ctx), Catch::Contains("row 3 has label 12, vocabulary is 12"));
}

}  // namespace
}  // namespace omnitrain
