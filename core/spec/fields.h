#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "core/spec/job_spec.h"

namespace omnitrain {

/// Spellings of an enum, in the order of its values from 0.
struct EnumNames {
  const char* const* names = nullptr;
  int count = 0;
};

EnumNames NamesOf(SaveDtype);
EnumNames NamesOf(RecomputeChoice);
EnumNames NamesOf(PipelineSchedule);
EnumNames NamesOf(CpMethod);
EnumNames NamesOf(Placement);
EnumNames NamesOf(PoolScope);
EnumNames NamesOf(SourceFormat);
EnumNames NamesOf(TooLong);
EnumNames NamesOf(AlphaMode);
EnumNames NamesOf(LrSchedule);
EnumNames NamesOf(PlanCosts);
EnumNames NamesOf(Precision);
EnumNames NamesOf(DeviceChoice);
EnumNames NamesOf(CommChoice);

struct IntRange {
  int64_t min = 0;
  int64_t max = std::numeric_limits<int64_t>::max();
};

/// Finite reals between two bounds.
struct RealRange {
  enum class Ends { kClosed, kOpenMin, kOpenMax };
  double min = 0;
  double max = std::numeric_limits<double>::infinity();
  Ends ends = Ends::kClosed;

  bool Contains(double x) const;
};

/// What VisitFields does with each key. A visitor that reads YAML writes the values, one that
/// echoes them reads; the wrappers turn every type of the structs into one of the few virtual ones.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  virtual void BeginGroup(const char* key, const char* help) = 0;
  virtual void EndGroup() = 0;
  /// A list of groups: `size` in, the wanted size out; then each item between BeginItem and
  /// EndItem.
  virtual size_t BeginList(const char* key, size_t size, const char* help) = 0;
  virtual void BeginItem(size_t index) = 0;
  virtual void EndItem() = 0;
  virtual void EndList() = 0;

  virtual void Bool(const char* key, bool* v, const char* help) = 0;
  virtual void Int(const char* key, int64_t* v, IntRange range, const char* help) = 0;
  virtual void OptionalInt(const char* key, std::optional<int64_t>* v, IntRange range,
                           const char* help) = 0;
  virtual void Real(const char* key, double* v, RealRange range, const char* help) = 0;
  virtual void String(const char* key, std::string* v, const char* help) = 0;
  virtual void Enum(const char* key, int* v, EnumNames names, const char* help) = 0;
  virtual void Ints(const char* key, std::vector<int64_t>* v, IntRange range, const char* help) = 0;
  virtual void Reals(const char* key, double* v, size_t size, RealRange range,
                     const char* help) = 0;
  virtual void Strings(const char* key, std::vector<std::string>* v, const char* help) = 0;
  /// Any map, kept as JSON text; "" if absent.
  virtual void AnyMap(const char* key, std::string* json, const char* help) = 0;

  /// An integer of any width, never wider than its type.
  template <typename I>
  void Integer(const char* key, I* v, IntRange range, const char* help) {
    int64_t x = static_cast<int64_t>(*v);
    Int(key, &x, Narrow<I>(range), help);
    *v = static_cast<I>(x);
  }
  template <typename I>
  void Integer(const char* key, std::optional<I>* v, IntRange range, const char* help) {
    std::optional<int64_t> x;
    if (v->has_value()) x = **v;
    OptionalInt(key, &x, Narrow<I>(range), help);
    v->reset();
    if (x.has_value()) *v = static_cast<I>(*x);
  }
  template <typename E>
  void Choice(const char* key, E* v, const char* help) {
    int x = static_cast<int>(*v);
    Enum(key, &x, NamesOf(*v), help);
    *v = static_cast<E>(x);
  }

 private:
  template <typename I>
  static IntRange Narrow(IntRange range) {
    if (sizeof(I) < sizeof(int64_t)) {
      range.max = std::min<int64_t>(range.max, std::numeric_limits<I>::max());
    }
    return range;
  }
};

/// The one declaration of all keys: parsing, checks, echo and reference walk through it.
void VisitFields(FieldVisitor& v, JobSpec* spec);

/// Paths of all keys, groups included; an entry of a list of groups has the index 0.
std::vector<std::string> AllKeys();

}  // namespace omnitrain
