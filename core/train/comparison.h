#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/base/json.h"

namespace omnitrain {

/// A tensor on the host, in f64, with its shape.
struct HostTensor {
  std::vector<int64_t> shape;
  std::vector<double> values;
};

/// Named results of a model: `i.logits`, `vision_out.j`, `grad.NAME`, `loss` (one value).
using NamedTensors = std::map<std::string, HostTensor>;

/// One line of a parity report.
struct ComparedTensor {
  std::string name;
  double error = 0;  // relative L2, or relative difference of a scalar; NaN compares as a failure
  double bound = 0;
  std::string note;  // why it failed where no error can be given (shapes)
  bool ok() const { return note.empty() && error <= bound; }
};

struct ComparisonReport {
  std::vector<ComparedTensor> compared;
  std::vector<std::string> not_in_reference, not_computed;

  bool ok() const;  // something was compared, and all of it is within its bound
  int num_failed() const;
  /// The largest errors relative to their bounds, worst first.
  std::vector<ComparedTensor> Worst(size_t count) const;
  Json ToJson() const;
};

/// ||got - want|| / ||want||, where a norm of `want` below 1e-9 of the largest of its kind (logits,
/// vision_out, grad) counts as that: tensors whose true value is zero hold only noise. Adds one
/// line per tensor that both have, with the bound of its name, and lists the rest.
using BoundOfTensor = std::function<double(const std::string& name)>;
void CompareTensors(const NamedTensors& got, const NamedTensors& want, const BoundOfTensor& bound,
                    ComparisonReport* report);
/// One bound for all.
void CompareTensors(const NamedTensors& got, const NamedTensors& want, double bound,
                    ComparisonReport* report);

/// |got - want| / |want| of one number.
void CompareScalar(const std::string& name, double got, double want, double bound,
                   ComparisonReport* report);

/// As a safetensors file of F64.  Errors: kCheckpoint.
void WriteNamedTensors(const std::string& path, const NamedTensors& tensors);
NamedTensors ReadNamedTensors(const std::string& path);

/// What one rank has of a result: some rows of a matrix, and of these some columns.
struct ResultPiece {
  std::string name;
  std::vector<int64_t> shape;  // [R, C] of the whole
  std::vector<int64_t> rows;
  int64_t first_column = 0, num_columns = 0;
  std::vector<double> values;  // [rows, num_columns]
};

/// Bytes for sending between ranks, and the pieces put into their places. Places that no piece
/// fills hold NaN.  Errors: kInternal when two pieces hold the same element.
std::string Serialize(const std::vector<ResultPiece>& pieces);
void AddPieces(const std::string& bytes, NamedTensors* into);

}  // namespace omnitrain
