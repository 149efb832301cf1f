#include "core/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/base/check.h"
#include "core/checkpoint/convert.h"

namespace omnitrain {
namespace {

// Not the project's ordered Json: its look-up is linear, and a header may hold 100,000 names.
using HeaderJson = nlohmann::json;

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference reader
constexpr int64_t kReadBufferBytes = int64_t{1} << 20;

struct DTypeRow {
  StoredDType stored;
  const char* name;
  int64_t bytes;
  std::optional<DType> dtype;
};

constexpr std::array<DTypeRow, 16> kDTypes = {{
    {StoredDType::kF64, "F64", 8, DType::kF64},
    {StoredDType::kF32, "F32", 4, DType::kF32},
    {StoredDType::kF16, "F16", 2, DType::kF16},
    {StoredDType::kBF16, "BF16", 2, DType::kBF16},
    {StoredDType::kF8E4M3, "F8_E4M3", 1, std::nullopt},
    {StoredDType::kF8E5M2, "F8_E5M2", 1, std::nullopt},
    {StoredDType::kF8E8M0, "F8_E8M0", 1, std::nullopt},
    {StoredDType::kI64, "I64", 8, DType::kI64},
    {StoredDType::kI32, "I32", 4, DType::kI32},
    {StoredDType::kI16, "I16", 2, std::nullopt},
    {StoredDType::kI8, "I8", 1, std::nullopt},
    {StoredDType::kU64, "U64", 8, std::nullopt},
    {StoredDType::kU32, "U32", 4, std::nullopt},
    {StoredDType::kU16, "U16", 2, std::nullopt},
    {StoredDType::kU8, "U8", 1, DType::kU8},
    {StoredDType::kBool, "BOOL", 1, DType::kU8},
}};

const DTypeRow& RowOf(StoredDType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

// Parses the header; the library itself would keep one of two equal keys without a word.
HeaderJson ParseUniqueKeys(const std::string& path, const std::string& text) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int, HeaderJson::parse_event_t event, HeaderJson& value) {
    if (event == HeaderJson::parse_event_t::object_start) keys.emplace_back();
    if (event == HeaderJson::parse_event_t::object_end) keys.pop_back();
    if (event == HeaderJson::parse_event_t::key) {
      const std::string& key = value.get_ref<const std::string&>();
      OT_REQUIRE(keys.back().insert(key).second, ErrorCode::kCheckpoint,
                 "{}: the header holds \"{}\" twice", path, key);
    }
    return true;
  };
  try {
    return HeaderJson::parse(text, check);
  } catch (const HeaderJson::exception& e) {
    Fail(ErrorCode::kCheckpoint, "{}: the header is not valid JSON: {}", path, e.what());
  }
}

// An array of integers in [0, 2^63).
std::optional<std::vector<int64_t>> ToIntegers(const HeaderJson& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<int64_t> values;
  for (const HeaderJson& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > INT64_MAX) return std::nullopt;
    values.push_back(item.get<int64_t>());
  }
  return values;
}

TensorEntry ParseEntry(const std::string& path, const std::string& name, const HeaderJson& json) {
  OT_REQUIRE(json.is_object() && json.size() == 3 && json.contains("dtype") &&
                 json["dtype"].is_string() && json.contains("shape") &&
                 json.contains("data_offsets"),
             ErrorCode::kCheckpoint, "{}: tensor {}: needs dtype, shape and data_offsets only",
             path, name);
  TensorEntry entry;
  const std::string& dtype = json["dtype"].get_ref<const std::string&>();
  const auto row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                [&](const DTypeRow& r) { return dtype == r.name; });
  OT_REQUIRE(row != kDTypes.end(), ErrorCode::kCheckpoint, "{}: tensor {}: unknown dtype \"{}\"",
             path, name, dtype);
  entry.dtype = row->stored;

  const auto shape = ToIntegers(json["shape"]);
  OT_REQUIRE(shape, ErrorCode::kCheckpoint, "{}: tensor {}: the shape is no list of sizes", path,
             name);
  entry.shape = *shape;
  bool overflows = false;
  entry.num_elements = 1;
  for (int64_t dim : entry.shape) {
    overflows |= __builtin_mul_overflow(entry.num_elements, dim, &entry.num_elements);
  }
  overflows |= __builtin_mul_overflow(entry.num_elements, row->bytes, &entry.num_bytes);
  OT_REQUIRE(!overflows, ErrorCode::kCheckpoint, "{}: tensor {}: shape {} is too large", path, name,
             ShapeText(entry.shape));

  const auto offsets = ToIntegers(json["data_offsets"]);
  OT_REQUIRE(offsets && offsets->size() == 2 && (*offsets)[0] <= (*offsets)[1],
             ErrorCode::kCheckpoint, "{}: tensor {}: data_offsets are not [begin, end]", path,
             name);
  const int64_t stored_bytes = (*offsets)[1] - (*offsets)[0];
  OT_REQUIRE(stored_bytes == entry.num_bytes, ErrorCode::kCheckpoint,
             "{}: tensor {}: {} {} takes {} bytes, data_offsets give it {}", path, name, dtype,
             ShapeText(entry.shape), entry.num_bytes, stored_bytes);
  entry.file_offset = (*offsets)[0];  // relative to the data until the layout is checked
  return entry;
}

}  // namespace

const char* StoredDTypeName(StoredDType dtype) { return RowOf(dtype).name; }
int64_t StoredDTypeBytes(StoredDType dtype) { return RowOf(dtype).bytes; }
std::optional<DType> ToDType(StoredDType dtype) { return RowOf(dtype).dtype; }

StoredDType ToStoredDType(DType dtype) {
  for (const DTypeRow& row : kDTypes) {
    if (row.dtype == dtype) return row.stored;
  }
  OT_CHECK(false, "{}", DTypeName(dtype));
  return StoredDType::kF32;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

SafetensorsFile SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile file(path);
  file.ParseHeader();
  return file;
}

void SafetensorsFile::ParseHeader() {
  OT_REQUIRE(file_.size() >= 8, ErrorCode::kCheckpoint,
             "{}: truncated or not a safetensors file: {} bytes", path(), file_.size());
  unsigned char prefix[8];
  file_.Read(0, 8, prefix);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | prefix[i];
  OT_REQUIRE(header_bytes <= kMaxHeaderBytes, ErrorCode::kCheckpoint,
             "{}: not a safetensors file: claims a header of {} bytes, the limit is {}", path(),
             header_bytes, kMaxHeaderBytes);
  const int64_t data_begin = 8 + static_cast<int64_t>(header_bytes);
  OT_REQUIRE(data_begin <= file_.size(), ErrorCode::kCheckpoint,
             "{}: truncated: the header needs {} bytes, the file has {}", path(), data_begin,
             file_.size());
  std::string text(header_bytes, '\0');
  file_.Read(8, static_cast<int64_t>(header_bytes), text.data());
  OT_REQUIRE(!text.empty() && text[0] == '{', ErrorCode::kCheckpoint,
             "{}: not a safetensors file: the header does not start with '{{'", path());

  const HeaderJson header = ParseUniqueKeys(path(), text);
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries_.emplace(name, ParseEntry(path(), name, value));
      names_.push_back(name);
      continue;
    }
    OT_REQUIRE(value.is_object(), ErrorCode::kCheckpoint, "{}: __metadata__ is no object", path());
    for (const auto& [key, item] : value.items()) {
      OT_REQUIRE(item.is_string(), ErrorCode::kCheckpoint, "{}: __metadata__ {} is no string",
                 path(), key);
      metadata_[key] = item.get<std::string>();
    }
  }
  CheckDataLayout(data_begin);
}

void SafetensorsFile::CheckDataLayout(int64_t data_begin) {
  std::sort(names_.begin(), names_.end(), [&](const std::string& a, const std::string& b) {
    const TensorEntry &x = entries_.at(a), &y = entries_.at(b);
    if (x.file_offset != y.file_offset) return x.file_offset < y.file_offset;
    if (x.num_bytes != y.num_bytes) return x.num_bytes < y.num_bytes;
    return a < b;
  });
  const int64_t data_bytes = file_.size() - data_begin;
  int64_t end = 0;
  for (const std::string& name : names_) {
    TensorEntry& entry = entries_.at(name);
    OT_REQUIRE(entry.file_offset == end, ErrorCode::kCheckpoint,
               "{}: tensor {}: its data begins at {}, {} the data before it, which ends at {}",
               path(), name, entry.file_offset,
               entry.file_offset < end ? "inside" : "with a hole after", end);
    end += entry.num_bytes;
    OT_REQUIRE(end <= data_bytes, ErrorCode::kCheckpoint,
               "{}: truncated: tensor {} ends at byte {} of the data, the file holds {}", path(),
               name, end, data_bytes);
    entry.file_offset += data_begin;
  }
  OT_REQUIRE(end == data_bytes, ErrorCode::kCheckpoint,
             "{}: {} bytes follow the last tensor: not the file that the header describes", path(),
             data_bytes - end);
}

const TensorEntry& SafetensorsFile::Find(const std::string& name) const {
  const auto found = entries_.find(name);
  OT_REQUIRE(found != entries_.end(), ErrorCode::kCheckpoint, "{}: holds no tensor {}", path(),
             name);
  return found->second;
}

void SafetensorsFile::RequireShape(const std::string& name,
                                   const std::vector<int64_t>& shape) const {
  const TensorEntry& entry = Find(name);
  OT_REQUIRE(entry.shape == shape, ErrorCode::kCheckpoint,
             "{}: tensor {} has shape {}, the model's config asks for {}", path(), name,
             ShapeText(entry.shape), ShapeText(shape));
}

void SafetensorsFile::ReadAs(const std::string& name, DType dtype, void* out, int64_t begin,
                             int64_t count) const {
  const TensorEntry& entry = Find(name);
  OT_CHECK(begin >= 0 && count >= 0 && begin <= entry.num_elements - count,
           "{}: tensor {}: elements [{}, {}) of {}", path(), name, begin, begin + count,
           entry.num_elements);
  const std::optional<DType> stored = ToDType(entry.dtype);
  OT_REQUIRE(stored && IsConvertible(*stored, dtype), ErrorCode::kCheckpoint,
             "{}: tensor {}: stored as {}, cannot be read as {}", path(), name,
             StoredDTypeName(entry.dtype), DTypeName(dtype));
  const int64_t from_bytes = StoredDTypeBytes(entry.dtype);
  const int64_t to_bytes = static_cast<int64_t>(DTypeBytes(dtype));
  const int64_t offset = entry.file_offset + begin * from_bytes;
  if (*stored == dtype) {
    file_.Read(offset, count * from_bytes, out);
    return;
  }
  const int64_t chunk = kReadBufferBytes / from_bytes;
  std::vector<char> buffer(static_cast<size_t>(std::min(chunk, count) * from_bytes));
  for (int64_t done = 0; done < count; done += chunk) {
    const int64_t n = std::min(chunk, count - done);
    file_.Read(offset + done * from_bytes, n * from_bytes, buffer.data());
    const int64_t converted = ConvertElements(*stored, buffer.data(), dtype,
                                              static_cast<char*>(out) + done * to_bytes, n);
    OT_REQUIRE(converted == n, ErrorCode::kCheckpoint, "{}: tensor {}: element {} does not fit {}",
               path(), name, begin + done + converted, DTypeName(dtype));
  }
}

}  // namespace omnitrain
