#include "parallel/schedule/op.h"

#include <cctype>
#include <sstream>

#include "core/base/check.h"

namespace omnitrain {
namespace {

struct KindName {
  OpKind kind;
  const char* name;
};

constexpr KindName kKindNames[] = {
    {OpKind::kForward, "F"},
    {OpKind::kBackward, "B"},
    {OpKind::kInputGrad, "I"},
    {OpKind::kWeightGrad, "W"},
    {OpKind::kSendForward, "SEND_F"},
    {OpKind::kRecvForward, "RECV_F"},
    {OpKind::kSendBackward, "SEND_B"},
    {OpKind::kRecvBackward, "RECV_B"},
    {OpKind::kReshardForward, "RESHARD_F"},
    {OpKind::kReshardBackward, "RESHARD_B"},
    {OpKind::kReduceGrad, "REDUCE_GRAD"},
    {OpKind::kStep, "STEP"},
    {OpKind::kFree, "FREE"},
};

bool IsReshard(OpKind kind) {
  return kind == OpKind::kReshardForward || kind == OpKind::kReshardBackward;
}

bool HasMicroBatch(OpKind kind) { return kind != OpKind::kReduceGrad && kind != OpKind::kStep; }

/// Reads one token from left to right.
class Reader {
 public:
  explicit Reader(const std::string& token) : token_(token) {}

  [[noreturn]] void Refuse(const std::string& what) const {
    Fail(ErrorCode::kSpec, "schedule: op '{}': {}", token_, what);
  }
  bool AtDigit() const {
    return at_ < token_.size() && std::isdigit(static_cast<unsigned char>(token_[at_])) != 0;
  }
  /// A non-negative number, or -1 when there is none here.
  int Number() {
    if (!AtDigit()) return -1;
    long value = 0;
    while (AtDigit()) {
      value = value * 10 + (token_[at_++] - '0');
      if (value > 1000000000) Refuse("a number is out of range");
    }
    return static_cast<int>(value);
  }
  /// The number behind `mark`, or -1 when the mark is not here.
  int NumberAfter(char mark) {
    if (at_ >= token_.size() || token_[at_] != mark) return -1;
    ++at_;
    if (!AtDigit()) Refuse(fmt::format("no number behind '{}'", mark));
    return Number();
  }
  std::string Module() {
    const size_t colon = token_.find(':');
    if (colon == std::string::npos) return "";
    const std::string name = token_.substr(0, colon);
    if (name.empty() || !std::islower(static_cast<unsigned char>(name[0]))) {
      Refuse("a module is lower-case letters, digits and '_'");
    }
    for (char c : name) {
      if (!std::islower(static_cast<unsigned char>(c)) &&
          !std::isdigit(static_cast<unsigned char>(c)) && c != '_') {
        Refuse("a module is lower-case letters, digits and '_'");
      }
    }
    at_ = colon + 1;
    return name;
  }
  OpKind Kind() {
    const size_t begin = at_;
    while (at_ < token_.size() &&
           (std::isupper(static_cast<unsigned char>(token_[at_])) != 0 || token_[at_] == '_')) {
      ++at_;
    }
    const std::string name = token_.substr(begin, at_ - begin);
    for (const KindName& entry : kKindNames) {
      if (name == entry.name) return entry.kind;
    }
    Refuse(fmt::format("'{}' is no kind of op", name));
  }
  void End() const {
    if (at_ != token_.size()) Refuse(fmt::format("'{}' is left over", token_.substr(at_)));
  }

 private:
  const std::string& token_;
  size_t at_ = 0;
};

}  // namespace

const char* OpKindName(OpKind kind) {
  for (const KindName& entry : kKindNames) {
    if (entry.kind == kind) return entry.name;
  }
  return "?";
}

bool Op::operator==(const Op& o) const {
  return kind == o.kind && module == o.module && stage == o.stage && micro_batch == o.micro_batch &&
         slice == o.slice && group == o.group && layer == o.layer;
}

std::string ToString(const Op& op) {
  std::string text;
  if (!op.module.empty()) text += op.module + ":";
  if (op.stage > 0 && !IsReshard(op.kind)) text += fmt::format("{}", op.stage);
  text += OpKindName(op.kind);
  if (op.micro_batch >= 0) text += fmt::format("{}", op.micro_batch);
  if (op.slice >= 0) text += fmt::format(".{}", op.slice);
  if (op.stage > 0 && IsReshard(op.kind)) text += fmt::format("@{}", op.stage);
  if (op.layer >= 0) text += fmt::format("/{}", op.layer);
  if (op.group >= 0) text += fmt::format("%{}", op.group);
  return text;
}

std::string ToString(const std::vector<Op>& ops) {
  std::string text;
  for (const Op& op : ops) {
    if (!text.empty()) text += ' ';
    text += ToString(op);
  }
  return text;
}

Op ParseOp(const std::string& token) {
  Reader reader(token);
  Op op;
  op.module = reader.Module();
  const int stage = reader.Number();
  op.kind = reader.Kind();
  op.micro_batch = reader.Number();
  op.slice = reader.NumberAfter('.');
  const int reshard_stage = reader.NumberAfter('@');
  op.layer = reader.NumberAfter('/');
  op.group = reader.NumberAfter('%');
  reader.End();
  if (IsReshard(op.kind)) {
    if (stage >= 0) reader.Refuse("the stage of a RESHARD stands behind '@'");
    if (reshard_stage >= 0) op.stage = reshard_stage;
  } else {
    if (reshard_stage >= 0) reader.Refuse("'@' is for RESHARD; the stage stands before the kind");
    if (stage >= 0) op.stage = stage;
    if (op.module.empty() && HasMicroBatch(op.kind)) reader.Refuse("it names no module");
  }
  if (HasMicroBatch(op.kind) != (op.micro_batch >= 0)) {
    reader.Refuse(op.micro_batch >= 0 ? "it takes no micro_batch" : "it names no micro_batch");
  }
  return op;
}

std::vector<Op> ParseOps(const std::string& text) {
  std::istringstream in(text);
  std::vector<Op> ops;
  for (std::string token; in >> token;) ops.push_back(ParseOp(token));
  return ops;
}

}  // namespace omnitrain
