#include "core/train/comparison.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/check.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/safetensors_writer.h"

namespace omnitrain {
namespace {

// "grad", "vision_out", "logits": tensors of a kind have comparable sizes.
std::string KindOf(const std::string& name) {
  if (name.compare(0, 5, "grad.") == 0) return "grad";
  if (name.compare(0, 11, "vision_out.") == 0) return "vision_out";
  const size_t dot = name.rfind('.');
  return dot == std::string::npos ? name : name.substr(dot + 1);
}

double Norm(const std::vector<double>& x) {
  double sum = 0;
  for (double v : x) sum += v * v;
  return std::sqrt(sum);
}

double Ratio(const ComparedTensor& c) {
  const double ratio = c.error / c.bound;
  return c.note.empty() && !std::isnan(ratio) ? ratio : std::numeric_limits<double>::infinity();
}

template <typename T>
void Append(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T Take(const std::string& bytes, size_t* at) {
  OT_CHECK(*at + sizeof(T) <= bytes.size(), "message of {} bytes is cut", bytes.size());
  T value;
  std::memcpy(&value, bytes.data() + *at, sizeof value);
  *at += sizeof value;
  return value;
}

}  // namespace

bool ComparisonReport::ok() const { return !compared.empty() && num_failed() == 0; }

int ComparisonReport::num_failed() const {
  return static_cast<int>(std::count_if(compared.begin(), compared.end(),
                                        [](const ComparedTensor& c) { return !c.ok(); }));
}

std::vector<ComparedTensor> ComparisonReport::Worst(size_t count) const {
  std::vector<ComparedTensor> sorted = compared;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return Ratio(a) > Ratio(b); });
  if (sorted.size() > count) sorted.resize(count);
  return sorted;
}

Json ComparisonReport::ToJson() const {
  Json tensors = Json::array();
  for (const ComparedTensor& c : compared) {
    Json line = {{"name", c.name}, {"error", c.error}, {"bound", c.bound}, {"ok", c.ok()}};
    if (!c.note.empty()) line["note"] = c.note;
    tensors.push_back(line);
  }
  return {
      {"ok", ok()},         {"num_compared", compared.size()},      {"num_failed", num_failed()},
      {"tensors", tensors}, {"not_in_reference", not_in_reference}, {"not_computed", not_computed}};
}

void CompareTensors(const NamedTensors& got, const NamedTensors& want, double bound,
                    ComparisonReport* report) {
  CompareTensors(
      got, want, [bound](const std::string&) { return bound; }, report);
}

void CompareTensors(const NamedTensors& got, const NamedTensors& want, const BoundOfTensor& bound,
                    ComparisonReport* report) {
  std::map<std::string, double> largest;
  for (const auto& [name, tensor] : want) {
    double& norm = largest[KindOf(name)];
    norm = std::max(norm, Norm(tensor.values));
  }
  for (const auto& [name, tensor] : got) {
    const auto it = want.find(name);
    if (it == want.end()) {
      report->not_in_reference.push_back(name);
      continue;
    }
    ComparedTensor c;
    c.name = name;
    c.bound = bound(name);
    if (tensor.values.size() != it->second.values.size()) {
      c.note = fmt::format("shape {}, the reference has {}", ShapeText(tensor.shape),
                           ShapeText(it->second.shape));
    } else {
      double squares = 0;
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        const double d = tensor.values[i] - it->second.values[i];
        squares += d * d;
      }
      const double floor = 1e-9 * largest[KindOf(name)];
      const double norm = std::max(Norm(it->second.values), floor);
      c.error = norm > 0 ? std::sqrt(squares) / norm : std::sqrt(squares);
    }
    report->compared.push_back(c);
  }
  for (const auto& [name, tensor] : want) {
    if (got.count(name) == 0) report->not_computed.push_back(name);
  }
}

void CompareScalar(const std::string& name, double got, double want, double bound,
                   ComparisonReport* report) {
  ComparedTensor c;
  c.name = name;
  c.bound = bound;
  c.error = std::fabs(got - want) / std::max(std::fabs(want), 1e-300);
  report->compared.push_back(c);
}

void WriteNamedTensors(const std::string& path, const NamedTensors& tensors) {
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : tensors) {
    sources.push_back(MemorySource(name, DType::kF64, tensor.shape, tensor.values.data()));
  }
  WriteSafetensors(path, std::move(sources));
}

NamedTensors ReadNamedTensors(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::Open(path);
  NamedTensors tensors;
  for (const std::string& name : file.names()) {
    tensors[name] = {file.Find(name).shape, file.ReadAll<double>(name)};
  }
  return tensors;
}

std::string Serialize(const std::vector<ResultPiece>& pieces) {
  std::string out;
  const auto append_list = [&](const auto& list) {
    Append(&out, static_cast<int64_t>(list.size()));
    out.append(reinterpret_cast<const char*>(list.data()), list.size() * sizeof(list[0]));
  };
  for (const ResultPiece& piece : pieces) {
    append_list(piece.name);
    append_list(piece.shape);
    append_list(piece.rows);
    Append(&out, piece.first_column);
    Append(&out, piece.num_columns);
    append_list(piece.values);
  }
  return out;
}

void AddPieces(const std::string& bytes, NamedTensors* into) {
  size_t at = 0;
  const auto take_list = [&](auto* list) {
    list->resize(static_cast<size_t>(Take<int64_t>(bytes, &at)));
    const size_t num_bytes = list->size() * sizeof((*list)[0]);
    OT_CHECK(at + num_bytes <= bytes.size(), "message of {} bytes is cut", bytes.size());
    std::memcpy(list->data(), bytes.data() + at, num_bytes);
    at += num_bytes;
  };
  while (at < bytes.size()) {
    ResultPiece piece;
    take_list(&piece.name);
    take_list(&piece.shape);
    take_list(&piece.rows);
    piece.first_column = Take<int64_t>(bytes, &at);
    piece.num_columns = Take<int64_t>(bytes, &at);
    take_list(&piece.values);
    HostTensor& whole = (*into)[piece.name];
    const int64_t columns = piece.shape.at(1);
    if (whole.values.empty()) {
      whole.shape = piece.shape;
      whole.values.assign(static_cast<size_t>(piece.shape.at(0) * columns),
                          std::numeric_limits<double>::quiet_NaN());
    }
    OT_CHECK(whole.shape == piece.shape, "{}: pieces of two shapes", piece.name);
    for (size_t i = 0; i < piece.rows.size(); ++i) {
      for (int64_t c = 0; c < piece.num_columns; ++c) {
        double& place =
            whole.values.at(static_cast<size_t>(piece.rows[i] * columns + piece.first_column + c));
        const double value =
            piece.values.at(i * static_cast<size_t>(piece.num_columns) + static_cast<size_t>(c));
        OT_CHECK(std::isnan(place) || std::isnan(value), "{}: row {} column {} from two ranks",
                 piece.name, piece.rows[i], piece.first_column + c);
        place = value;
      }
    }
  }
}

}  // namespace omnitrain
