#include <algorithm>

#include "core/model/context_attention_impl.h"
#include "kernels/elementwise/elementwise.h"

namespace omnitrain {
namespace {

// Two messages go from a rank to one peer in a backward: keys at step s, gradients at step cp - s.
// All ranks start messages in one sequence by step, so both ends agree on the order without tags.
constexpr int kTag = 0;

/// k and v, or their gradients, side by side in one message.
struct KeyPair {
  Tensor both, k, v;  // [rows, 2 G K]; [rows, G, K] twice

  KeyPair(const Tensor& rows, const AttentionHeads& heads) : both(rows) {
    const int64_t width = heads.kv * heads.dim;
    k = rows.Columns(0, width).View({rows.shape[0], heads.kv, heads.dim});
    v = rows.Columns(width, width).View({rows.shape[0], heads.kv, heads.dim});
  }
};

/// The workspace of a forward or backward.
struct RingSpace {
  Tensor own_keys;         // [Tc, 2 G K], to be sent
  Tensor keys_in[2];       // [most keys seen, 2 G K]
  Tensor o_part;           // [most queries, H, K]
  Tensor lse_part;         // [H * most queries]
  Tensor grads_out[2];     // as keys_in
  Tensor grads_in[2];      // [most keys shown, 2 G K]
  Tensor wide_grads;       // the same, in the dtype of sums where that is wider
  Tensor o_sum, dq_sum;    // [Tc, H, K], likewise
  Tensor dk_sum, dv_sum;   // [Tc, G, K], likewise
  bool has_parts = false;  // there is something to merge

  RingSpace(ContextCall& call, bool is_backward) {
    int64_t keys_in_rows = 0, shown = 0, queries = 0;
    const ContextTables& t = call.tables;
    for (size_t s = 0; s < t.seen.size(); ++s) {
      if (s > 0) keys_in_rows = std::max(keys_in_rows, t.seen[s].rows.keys.count);
      shown = std::max(shown, t.shown[s].count);
      queries = std::max(queries, t.seen[s].rows.queries.count);
    }
    has_parts = queries > 0 || shown > 0;
    const int64_t Tc = call.num_rows(), H = call.heads.query, G = call.heads.kv;
    const int64_t K = call.heads.dim, width = 2 * G * K;
    const auto take = [&](const Shape& shape) { return call.workspace.Take(call.dtype, shape); };
    const auto take_sum = [&](const Shape& shape) {
      return call.workspace.Take(call.sum_dtype, shape);
    };
    own_keys = take({shown > 0 ? Tc : 0, width});
    for (Tensor& keys : keys_in) keys = take({keys_in_rows, width});
    const bool takes_sums = call.has_wide_sums() && has_parts;
    if (!is_backward) {
      o_part = take({queries, H, K});
      lse_part = take_sum({H * queries});
      if (takes_sums) o_sum = take_sum({Tc, H, K});
      return;
    }
    for (Tensor& grads : grads_out) grads = take({keys_in_rows, width});
    for (Tensor& grads : grads_in) grads = take({shown, width});
    if (!takes_sums) return;
    wide_grads = take_sum({shown, width});
    dq_sum = take_sum({Tc, H, K});
    dk_sum = take_sum({Tc, G, K});
    dv_sum = take_sum({Tc, G, K});
  }
};

/// Messages of one kind, by step.
class Exchange {
 public:
  Exchange(Context& ctx, const ContextCall& call)
      : ctx_(ctx),
        cp_(call.cp),
        sends_(static_cast<size_t>(cp_.size)),
        receives_(static_cast<size_t>(cp_.size)) {}

  /// Sends `out` to rank + offset and receives `in` from rank - offset; nothing where without rows.
  void Start(int step, int offset, const Tensor& out, const Tensor& in) {
    const int n = cp_.size, to = (cp_.rank + offset + n) % n, from = (cp_.rank - offset + n) % n;
    const auto s = static_cast<size_t>(step);
    if (out.rows() > 0) sends_[s] = cp_.comm->Send(out, to, kTag, ctx_.stream());
    if (in.rows() > 0) receives_[s] = cp_.comm->Recv(in, from, kTag, ctx_.stream());
  }
  void AwaitReceived(int step) { receives_[static_cast<size_t>(step)].Wait(ctx_.stream()); }
  void AwaitSent(int step) { sends_[static_cast<size_t>(step)].Wait(ctx_.stream()); }
  void AwaitAllSent() {
    for (CommHandle& send : sends_) send.Wait(ctx_.stream());
  }

 private:
  Context& ctx_;
  const AxisSeat& cp_;
  std::vector<CommHandle> sends_, receives_;
};

/// The keys that this rank sees, step by step: a step's are on their way while the one before
/// computes.
class KeyExchange {
 public:
  KeyExchange(Context& ctx, const ContextCall& call, const RingSpace& space,
              const ContextOperands& x)
      : call_(call), space_(space), exchange_(ctx, call), own_k_(x.k), own_v_(x.v) {
    if (space.own_keys.rows() > 0) {
      const KeyPair own(space.own_keys, call.heads);
      Cast(ctx, Flat(x.k), Flat(own.k));
      Cast(ctx, Flat(x.v), Flat(own.v));
    }
    Start(1);
  }

  struct Keys {
    Tensor k, v;  // [keys seen at this step, G, K]
  };
  /// Steps come in order. What step s gave is overwritten once Take(s + 1) was called.
  Keys Take(int step) {
    const RowRun& rows = call_.tables.seen[static_cast<size_t>(step)].rows.keys;
    if (step == 0)
      return {own_k_.Rows(rows.begin, rows.count), own_v_.Rows(rows.begin, rows.count)};
    exchange_.AwaitReceived(step);
    Start(step + 1);
    const KeyPair keys(Place(step), call_.heads);
    return {keys.k, keys.v};
  }
  void Finish() { exchange_.AwaitAllSent(); }

 private:
  void Start(int step) {
    if (step >= call_.cp.size) return;
    const RowRun& shown = call_.tables.shown[static_cast<size_t>(step)];
    exchange_.Start(step, step, space_.own_keys.Rows(shown.begin, shown.count), Place(step));
  }
  Tensor Place(int step) const {
    const RowRun& rows = call_.tables.seen[static_cast<size_t>(step)].rows.keys;
    return space_.keys_in[step % 2].Rows(0, rows.count);
  }

  const ContextCall& call_;
  const RingSpace& space_;
  Exchange exchange_;
  Tensor own_k_, own_v_;
};

/// Gradients of keys on their way back to where the keys live, added there in the order of steps.
class GradExchange {
 public:
  GradExchange(Context& ctx, const ContextCall& call, const RingSpace& space, const Tensor& dk_sum,
               const Tensor& dv_sum)
      : ctx_(ctx),
        call_(call),
        space_(space),
        exchange_(ctx, call),
        dk_sum_(dk_sum),
        dv_sum_(dv_sum) {}

  /// Where the gradients of the keys of `step` are to be written.
  KeyPair Place(int step) {
    if (step > 2) exchange_.AwaitSent(step - 2);
    const RowRun& rows = call_.tables.seen[static_cast<size_t>(step)].rows.keys;
    return KeyPair(space_.grads_out[step % 2].Rows(0, rows.count), call_.heads);
  }
  /// Sends what Place(step) now holds and adds what others sent at the step before.
  void Pass(int step, const Tensor& out) {
    exchange_.Start(step, -step, out, Incoming(step));
    if (step > 1) Add(step - 1);
  }
  void Finish() {
    Add(call_.cp.size - 1);
    exchange_.AwaitAllSent();
  }

 private:
  Tensor Incoming(int step) const {
    return space_.grads_in[step % 2].Rows(0, call_.tables.shown[static_cast<size_t>(step)].count);
  }
  void Add(int step) {
    const RowRun& rows = call_.tables.shown[static_cast<size_t>(step)];
    if (rows.count == 0) return;
    exchange_.AwaitReceived(step);
    const KeyPair part(Incoming(step), call_.heads);
    const Tensor wide = space_.wide_grads ? space_.wide_grads.Rows(0, rows.count) : part.both;
    const KeyPair wide_pair(wide, call_.heads);
    AddPart(ctx_, Flat(part.k), Write::kAccumulate, Flat(wide_pair.k),
            Flat(dk_sum_.Rows(rows.begin, rows.count)));
    AddPart(ctx_, Flat(part.v), Write::kAccumulate, Flat(wide_pair.v),
            Flat(dv_sum_.Rows(rows.begin, rows.count)));
  }

  Context& ctx_;
  const ContextCall& call_;
  const RingSpace& space_;
  Exchange exchange_;
  Tensor dk_sum_, dv_sum_;
};

AttentionParams WithoutMask(AttentionParams params) {
  params.is_causal = false;
  return params;
}

}  // namespace

void RingForward(Context& ctx, ContextCall call, const ContextOperands& x) {
  OT_CHECK(x.params.is_causal, "the ring is for causal attention");
  const RingSpace space(call, false);
  KeyExchange keys(ctx, call, space, x);
  AttentionForward(ctx, x.q, x.k, x.v, call.tables.own, x.params, x.o, x.lse);
  const Tensor o_sum = space.o_sum ? space.o_sum : x.o;
  if (space.o_sum) Cast(ctx, Flat(x.o), Flat(o_sum));
  for (int step = 0; step < call.cp.size; ++step) {
    const ContextTables::Block& block = call.tables.seen[static_cast<size_t>(step)];
    const auto [k, v] = keys.Take(step);
    if (block.rows.is_empty()) continue;
    const int64_t begin = block.rows.queries.begin, count = block.rows.queries.count;
    const Tensor o_part = space.o_part.Rows(0, count);
    const int64_t num_heads = call.heads.query;
    const Tensor lse_part = space.lse_part.Rows(0, num_heads * count).View({num_heads, count});
    AttentionForward(ctx, x.q.Rows(begin, count), k, v, block.segments, WithoutMask(x.params),
                     o_part, lse_part);
    AttentionMerge(ctx, o_part, lse_part, o_sum.Rows(begin, count), x.lse.Columns(begin, count));
  }
  keys.Finish();
  if (space.o_sum) Cast(ctx, Flat(o_sum), Flat(x.o));
}

void RingBackward(Context& ctx, ContextCall call, const ContextOperands& x, Tensor d_q, Tensor d_k,
                  Tensor d_v) {
  OT_CHECK(x.params.is_causal, "the ring is for causal attention");
  const RingSpace space(call, true);
  const bool takes_sums = static_cast<bool>(space.dq_sum);
  const Tensor dq = takes_sums ? space.dq_sum : d_q, dk = takes_sums ? space.dk_sum : d_k,
               dv = takes_sums ? space.dv_sum : d_v;
  KeyExchange keys(ctx, call, space, x);
  GradExchange grads(ctx, call, space, dk, dv);
  AttentionBackward(ctx, x.d_o, x.q, x.k, x.v, x.o, x.lse, call.tables.own, x.params, {dq, dk, dv});
  for (int step = 0; step < call.cp.size; ++step) {
    const ContextTables::Block& block = call.tables.seen[static_cast<size_t>(step)];
    const auto [k, v] = keys.Take(step);
    const auto add_block = [&, k = k, v = v](const Tensor& dk_part, const Tensor& dv_part,
                                             Write write) {
      if (block.rows.is_empty()) return;
      const int64_t begin = block.rows.queries.begin, count = block.rows.queries.count;
      AttentionBackward(ctx, x.d_o.Rows(begin, count), x.q.Rows(begin, count), k, v,
                        x.o.Rows(begin, count), x.lse.Columns(begin, count), block.segments,
                        WithoutMask(x.params),
                        {dq.Rows(begin, count), dk_part, dv_part, Write::kAccumulate, write});
    };
    if (step == 0) {
      const RowRun& rows = block.rows.keys;
      add_block(dk.Rows(rows.begin, rows.count), dv.Rows(rows.begin, rows.count),
                Write::kAccumulate);
      continue;
    }
    const KeyPair part = grads.Place(step);
    add_block(part.k, part.v, Write::kOverwrite);
    grads.Pass(step, part.both);
  }
  grads.Finish();
  keys.Finish();
  if (!takes_sums) return;
  Cast(ctx, Flat(dq), Flat(d_q));
  Cast(ctx, Flat(dk), Flat(d_k));
  Cast(ctx, Flat(dv), Flat(d_v));
}

size_t RingWorkspaceBytes(const ContextCall& call) {
  ContextCall forward = call, backward = call;
  RingSpace(forward, false);
  RingSpace(backward, true);
  return std::max(forward.workspace.used(), backward.workspace.used());
}

}  // namespace omnitrain
