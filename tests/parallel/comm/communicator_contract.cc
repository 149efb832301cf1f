#include "tests/parallel/comm/communicator_contract.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/base/rng.h"
#include "tests/support/world.h"

namespace omnitrain {
namespace {

// Empty, one, fewer than ranks, odd, beyond the small-message paths, beyond one MPI slice.
const int64_t kCounts[] = {0, 1, 3, 1001, 20011};

template <typename T>
Tensor Of(std::vector<T>& v) {
  return Tensor(v.data(), DTypeOf<T>::value, {static_cast<int64_t>(v.size())});
}

/// What rank r holds at i: magnitudes far apart, so that another order of summing shows.
double Value(int r, int64_t i) {
  const double magnitude = std::ldexp(1.0, static_cast<int>((i * 7 + r * 31) % 60) - 30);
  return (RandomUniform(5, static_cast<uint64_t>(r), static_cast<uint64_t>(i)) - 0.5) * magnitude;
}

template <typename T>
std::vector<T> Values(int r, int64_t count, int64_t first = 0) {
  std::vector<T> v;
  for (int64_t i = 0; i < count; ++i) v.push_back(static_cast<T>(Value(r, first + i)));
  return v;
}

template <typename T>
std::vector<T> SumInOrder(int size, int64_t count, int64_t first = 0) {
  std::vector<T> sum = Values<T>(0, count, first);
  for (int r = 1; r < size; ++r) {
    const std::vector<T> part = Values<T>(r, count, first);
    for (size_t i = 0; i < part.size(); ++i) sum[i] = static_cast<T>(sum[i] + part[i]);
  }
  return sum;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

class CaseStream : public Stream {
 public:
  void Synchronize() override {}
  void* native() const override { return nullptr; }
};

template <typename T>
void SumsInRankOrder(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  for (int64_t count : kCounts) {
    std::vector<T> v = Values<T>(c.rank(), count);
    c.AllReduce(Of(v), ReduceOp::kSum, stream).Wait(stream);
    world.Require(SameBits(v, SumInOrder<T>(c.size(), count)),
                  fmt::format("AllReduce {} of {}", DTypeName(DTypeOf<T>::value), count));

    std::vector<T> in = Values<T>(c.rank(), count * c.size());
    std::vector<T> out(static_cast<size_t>(count));
    c.ReduceScatter(Of(in), Of(out), ReduceOp::kSum, stream).Wait(stream);
    world.Require(SameBits(out, SumInOrder<T>(c.size(), count, c.rank() * count)),
                  fmt::format("ReduceScatter {} of {}", DTypeName(DTypeOf<T>::value), count));
    world.Require(SameBits(in, Values<T>(c.rank(), count * c.size())), "input untouched");
  }
}

void Maxima(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  for (int64_t count : kCounts) {
    std::vector<double> v = Values<double>(c.rank(), count), want = Values<double>(0, count);
    for (int r = 1; r < c.size(); ++r) {
      for (int64_t i = 0; i < count; ++i) {
        want[static_cast<size_t>(i)] = std::max(want[static_cast<size_t>(i)], Value(r, i));
      }
    }
    c.AllReduce(Of(v), ReduceOp::kMax, stream).Wait(stream);
    world.Require(SameBits(v, want), "AllReduce max");
  }
}

void KeepsNanInMaxima(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  std::vector<float> v = {c.rank() == c.size() - 1 ? std::nanf("") : 1.0f, -2.0f};
  c.AllReduce(Of(v), ReduceOp::kMax, stream).Wait(stream);
  world.Require(std::isnan(v[0]) && v[1] == -2.0f, "NaN is the largest");
}

void SumsBF16InSingle(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  // 256 + 1 + 1 ... in bf16 steps would stay at 256: its spacing there is 2.
  std::vector<BFloat16> v(3000, ToBFloat16(c.rank() == 0 ? 256.0f : 1.0f));
  c.AllReduce(Of(v), ReduceOp::kSum, stream).Wait(stream);
  const uint16_t want = ToBFloat16(256.0f + static_cast<float>(c.size() - 1)).bits;
  bool is_right = true;
  for (BFloat16 x : v) is_right = is_right && x.bits == want;
  world.Require(is_right, fmt::format("sum is {}", ToFloat(v[0])));
}

void Gathers(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  for (int64_t count : kCounts) {
    std::vector<int64_t> want, in(static_cast<size_t>(count));
    for (int r = 0; r < c.size(); ++r) {
      for (int64_t i = 0; i < count; ++i) want.push_back(r * 1000000 + i);
    }
    std::iota(in.begin(), in.end(), c.rank() * int64_t{1000000});
    std::vector<int64_t> out(want.size(), -1);
    c.AllGather(Of(in), Of(out), stream).Wait(stream);
    world.Require(SameBits(out, want), fmt::format("AllGather of {}", count));

    std::vector<int64_t> in_place(want.size(), -1);
    std::copy(in.begin(), in.end(), in_place.begin() + c.rank() * count);
    c.AllGather(Tensor(in_place.data() + c.rank() * count, DType::kI64, {count}), Of(in_place),
                stream)
        .Wait(stream);
    world.Require(SameBits(in_place, want), fmt::format("AllGather in place of {}", count));
  }
}

void Broadcasts(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  for (int64_t count : kCounts) {
    const int root = static_cast<int>(count % c.size());
    std::vector<int32_t> v(static_cast<size_t>(count), c.rank());
    c.Broadcast(Of(v), root, stream).Wait(stream);
    world.Require(v == std::vector<int32_t>(static_cast<size_t>(count), root),
                  fmt::format("Broadcast of {}", count));
  }
}

/// Three messages to the next rank, two of them with one tag. `in_order`: received as they were
/// sent; else the middle one is taken first, by its tag.
void SendsAndReceives(Communicator& c, bool in_order) {
  if (c.size() == 1) return;
  TestWorld world(c);
  CaseStream stream;
  const int next = (c.rank() + 1) % c.size(), previous = (c.rank() + c.size() - 1) % c.size();
  for (int64_t count : kCounts) {
    std::vector<float> a(static_cast<size_t>(count), 1.0f + static_cast<float>(c.rank()));
    std::vector<float> b(static_cast<size_t>(count), 100.0f + static_cast<float>(c.rank()));
    std::vector<float> a2(static_cast<size_t>(count), 200.0f + static_cast<float>(c.rank()));
    std::vector<float> got_a(a.size()), got_b(a.size()), got_a2(a.size());
    CommHandle send_a = c.Send(Of(a), next, 7, stream);
    CommHandle send_b = c.Send(Of(b), next, Communicator::kMaxTag, stream);
    CommHandle send_a2 = c.Send(Of(a2), next, 7, stream);
    CommHandle middle, first;
    if (in_order) {
      first = c.Recv(Of(got_a), previous, 7, stream);
      middle = c.Recv(Of(got_b), previous, Communicator::kMaxTag, stream);
    } else {
      c.Recv(Of(got_b), previous, Communicator::kMaxTag, stream).Wait(stream);
      first = c.Recv(Of(got_a), previous, 7, stream);
    }
    CommHandle second = c.Recv(Of(got_a2), previous, 7, stream);
    first.Wait(stream);
    middle.Wait(stream);
    second.Wait(stream);
    send_a.Wait(stream);
    send_b.Wait(stream);
    send_a2.Wait(stream);
    const auto p = static_cast<float>(previous);
    world.Require(got_a == std::vector<float>(a.size(), 1 + p) &&
                      got_b == std::vector<float>(a.size(), 100 + p) &&
                      got_a2 == std::vector<float>(a.size(), 200 + p),
                  fmt::format("messages of {}", count));
  }
}

void AllToAllWithEmptyShares(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  // From s to d go (3 s + 5 d) % 7 * 1000 + s bytes, none where that remainder is 0.
  const auto count = [](int s, int d) {
    const int64_t share = (3 * s + 5 * d) % 7;
    return share == 0 ? int64_t{0} : share * 1000 + s;
  };
  std::vector<int64_t> in_bytes, out_bytes;
  std::vector<uint8_t> in, want;
  for (int r = 0; r < c.size(); ++r) {
    in_bytes.push_back(count(c.rank(), r));
    out_bytes.push_back(count(r, c.rank()));
    in.insert(in.end(), static_cast<size_t>(in_bytes.back()),
              static_cast<uint8_t>(16 * c.rank() + r));
    want.insert(want.end(), static_cast<size_t>(out_bytes.back()),
                static_cast<uint8_t>(16 * r + c.rank()));
  }
  std::vector<uint8_t> out(want.size(), 255);
  c.AllToAllV(Of(in), in_bytes, Of(out), out_bytes, stream).Wait(stream);
  world.Require(out == want, "AllToAllV");
}

/// Handles in flight together, waited for in another order on odd ranks: ranks must not depend on
/// each other's order of waiting.
void WaitsInAnyOrder(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  constexpr int64_t kCount = 30000;
  std::vector<double> a = Values<double>(c.rank(), kCount), b = Values<double>(c.rank(), kCount, 9);
  std::vector<double> sum_of_share(static_cast<size_t>(kCount / c.size()));
  std::vector<double> in = Values<double>(c.rank(), kCount / c.size() * c.size(), 4);
  CommHandle handle_a = c.AllReduce(Of(a), ReduceOp::kSum, stream);
  CommHandle handle_b = c.AllReduce(Of(b), ReduceOp::kSum, stream);
  CommHandle handle_c = c.ReduceScatter(Of(in), Of(sum_of_share), ReduceOp::kSum, stream);
  if (c.rank() % 2 == 0) {
    handle_a.Wait(stream);
    handle_b.Wait(stream);
    handle_c.Wait(stream);
  } else {
    handle_c.Wait(stream);
    handle_b.Wait(stream);
    handle_a.Wait(stream);
  }
  handle_a.Wait(stream);  // twice is allowed
  world.Require(SameBits(a, SumInOrder<double>(c.size(), kCount)), "first");
  world.Require(SameBits(b, SumInOrder<double>(c.size(), kCount, 9)), "second");
  world.Require(SameBits(sum_of_share, SumInOrder<double>(c.size(), kCount / c.size(),
                                                          4 + c.rank() * (kCount / c.size()))),
                "third");
}

void DroppedHandlesTakePart(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  constexpr int64_t kCount = 30000;
  std::vector<double> v = Values<double>(c.rank(), kCount);
  if (c.rank() == c.size() - 1) {
    CommHandle dropped = c.AllReduce(Of(v), ReduceOp::kSum, stream);
  } else {
    c.AllReduce(Of(v), ReduceOp::kSum, stream).Wait(stream);
  }
  world.Require(c.rank() == c.size() - 1 || SameBits(v, SumInOrder<double>(c.size(), kCount)),
                "the sum holds the part of the rank that dropped its handle");
}

void HostHelpers(Communicator& c) {
  TestWorld world(c);
  // Lengths differ, one is empty, bytes are any.
  const auto text = [](int r) { return std::string(static_cast<size_t>(r * 3 % 5), '\0') + "x"; };
  const std::vector<std::string> all = c.AllGatherStrings(c.rank() == 0 ? "" : text(c.rank()));
  bool is_right = static_cast<int>(all.size()) == c.size() && all[0].empty();
  for (int r = 1; r < c.size(); ++r) is_right = is_right && all[static_cast<size_t>(r)] == text(r);
  world.Require(is_right, "AllGatherStrings");
  const int n = c.size();
  world.Require(c.AllReduceScalar(0.5 + c.rank(), ReduceOp::kSum) == 0.5 * n + n * (n - 1) / 2,
                "sum of doubles");
  world.Require(c.AllReduceScalar((int64_t{1} << 60) + c.rank(), ReduceOp::kMax) ==
                    (int64_t{1} << 60) + n - 1,
                "maximum of integers");
  world.Require(world.AllTrue(true), "AllTrue(true)");
  world.Require(!world.AllTrue(c.rank() != n - 1), "one rank's false is everybody's");
  c.Barrier();
}

/// Even and odd ranks as groups, in falling order, both at work at once; then a group of one.
void Groups(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  std::vector<int> members;
  for (int i = c.size() - 1; i >= 0; --i) {
    if (i % 2 == c.rank() % 2) members.push_back(c.ranks()[static_cast<size_t>(i)]);
  }
  auto group = c.NewGroup("parity", members);
  auto again = c.NewGroup("parity", members);
  world.Require(group->ranks() == members && group->global_rank() == c.global_rank(), "members");
  const auto strings = group->AllGatherStrings(std::to_string(c.global_rank()));
  bool is_right = strings.size() == members.size();
  for (size_t i = 0; is_right && i < members.size(); ++i) {
    is_right = strings[i] == std::to_string(members[i]);
  }
  world.Require(is_right, "the order of the group");
  // The same call on two communicators of the same ranks must not mix.
  std::vector<int64_t> a = {1}, b = {100};
  CommHandle handle_a = group->AllReduce(Of(a), ReduceOp::kSum, stream);
  CommHandle handle_b = again->AllReduce(Of(b), ReduceOp::kSum, stream);
  handle_b.Wait(stream);
  handle_a.Wait(stream);
  const auto n = static_cast<int64_t>(members.size());
  world.Require(a[0] == n && b[0] == 100 * n, "two groups of the same ranks");
  auto alone = c.NewGroup("alone", {c.global_rank()});
  world.Require(alone->size() == 1 && alone->AllReduceScalar(2.5, ReduceOp::kSum) == 2.5, "alone");
}

void RefusesWhatDoesNotFit(Communicator& c) {
  TestWorld world(c);
  CaseStream stream;
  std::vector<float> v(6);
  const auto refuses = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.code() == ErrorCode::kInternal;
    }
    return false;
  };
  const Tensor strided = Of(v).View({3, 2}).Columns(0, 1);
  world.Require(refuses([&] { c.AllReduce(strided, ReduceOp::kSum, stream); }), "strided");
  world.Require(refuses([&] { c.Broadcast(Of(v), c.size(), stream); }), "root");
  world.Require(refuses([&] { c.Send(Of(v), c.rank(), 0, stream); }), "to itself");
  world.Require(refuses([&] { c.AllGather(Of(v), Tensor(v.data(), DType::kF32, {5}), stream); }),
                "sizes");
  world.Require(refuses([&] { c.NewGroup("other", {c.global_rank() + 1000}); }), "not in it");
}

}  // namespace

const std::vector<ContractCase>& CommunicatorContract() {
  static const std::vector<ContractCase> cases = {
      {"sums in rank order, f64", SumsInRankOrder<double>},
      {"sums in rank order, f32", SumsInRankOrder<float>},
      {"sums, i64", SumsInRankOrder<int64_t>},
      {"sums, i32", SumsInRankOrder<int32_t>},
      {"sums, bf16", SumsBF16InSingle},
      {"maxima", Maxima},
      {kNanMaxima, KeepsNanInMaxima},
      {"gathers", Gathers},
      {"broadcasts", Broadcasts},
      {"messages", [](Communicator& c) { SendsAndReceives(c, true); }},
      {kTagsOutOfOrder, [](Communicator& c) { SendsAndReceives(c, false); }},
      {"all to all", AllToAllWithEmptyShares},
      {"waits in any order", WaitsInAnyOrder},
      {"dropped handles", DroppedHandlesTakePart},
      {"host helpers", HostHelpers},
      {"groups", Groups},
      {"refusals", RefusesWhatDoesNotFit},
  };
  return cases;
}

}  // namespace omnitrain
