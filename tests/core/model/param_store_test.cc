#include "core/model/param_store.h"

#include "tests/support/catch.h"

namespace omnitrain {
namespace {

ParamSpec Matrix(const std::string& name, int64_t rows, int64_t columns,
                 ParamSharing sharing = ParamSharing::kSlice) {
  ParamSpec spec;
  spec.name = name;
  spec.shape = {rows, columns};
  spec.sharing = sharing;
  spec.hf_parts = {{"hf." + name, 0, rows, {rows, columns}}};
  return spec;
}

std::vector<std::vector<ParamId>> ParamsOfBuckets(const ParamStore& params) {
  std::vector<std::vector<ParamId>> ids;
  for (const ParamBucket& bucket : params.buckets()) ids.push_back(bucket.params);
  return ids;
}

using Ids = std::vector<std::vector<ParamId>>;

TEST_CASE("Buckets of one class fill in the order of Add") {
  ParamStore params;
  for (int i = 0; i < 5; ++i) params.Add(Matrix(fmt::format("w{}", i), 10, 10));
  ParamStore::AllocateOptions options;
  options.num_shards.fill(3);
  options.bucket_elements = 200;
  params.Plan(options);
  CHECK(ParamsOfBuckets(params) == Ids{{0, 1}, {2, 3}, {4}});
  CHECK(params.flat_begin(1) == 128);
  CHECK(params.buckets()[0].size == 384);  // 2 * 128, up to a multiple of 64 * 3
  CHECK(params.buckets()[1].begin == 384);
  CHECK(params.flat_begin(4) == 768);
  CHECK(params.grad_bytes() == (768 + 192) * 4);
}

TEST_CASE("A bucket has one class, and buckets follow each other by their first parameters") {
  ParamStore params;
  params.Add(Matrix("embed", 10, 10));
  for (int layer = 0; layer < 2; ++layer) {
    params.Add(Matrix("norm", 1, 10, ParamSharing::kWhole));
    params.Add(Matrix("qkv", 10, 10));
    params.Add(Matrix("experts", 10, 10, ParamSharing::kExperts));
    params.Add(Matrix("down", 10, 10));
  }
  params.Add(Matrix("head", 10, 10, ParamSharing::kTied));
  ParamStore::AllocateOptions options;
  options.num_shards = {2, 4, 1, 4, 1};
  options.bucket_elements = 200;
  params.Plan(options);
  // The norms fill no bucket: theirs is complete with the first layer's.
  CHECK(ParamsOfBuckets(params) == Ids{{9}, {0, 2}, {1, 5}, {3, 7}, {4, 6}, {8}});
  int64_t begin = 0;
  for (const ParamBucket& bucket : params.buckets()) {
    CHECK(bucket.begin == begin);
    begin += bucket.size;
    CHECK(bucket.size % (64 * options.num_shards[static_cast<size_t>(bucket.sharing)]) == 0);
    for (ParamId id : bucket.params) CHECK(params.spec(id).sharing == bucket.sharing);
  }
  CHECK(params.buckets()[0].sharing == ParamSharing::kTied);
  CHECK(params.buckets()[2].size == 256);  // 2 * 64, up to a multiple of 64 * 4
}

// Where the elements of a parameter lie, one by one.
std::vector<int64_t> Places(const std::vector<StoredPiece>& pieces) {
  std::vector<int64_t> places;
  for (const StoredPiece& piece : pieces) {
    CHECK(NumElements(piece.runs) == piece.num_elements());
    CHECK(piece.runs.size() <= 3);
    for (const ElementRun& run : piece.runs) {
      for (int64_t i = 0; i < run.num_elements(); ++i) places.push_back(run[i]);
    }
  }
  return places;
}

TEST_CASE("Any range of a slice maps to its place in the stored tensors") {
  // q, k and v of [7, 6], of which this rank has rows 2..4, 0..1 and 6, columns 1..4.
  ParamSpec spec;
  spec.name = "qkv";
  spec.shape = {6, 4};
  spec.hf_parts = {{"q", 0, 3, {7, 6}, 2, 1}, {"k", 3, 2, {7, 6}, 0, 1}, {"v", 5, 1, {7, 6}, 6, 1}};
  std::vector<int64_t> all;
  for (int64_t row : {2, 3, 4, 0, 1, 6}) {
    for (int64_t column = 1; column < 5; ++column) all.push_back(row * 6 + column);
  }
  CHECK(Places(StoredPieces(spec)) == all);
  for (int64_t begin = 0; begin <= 24; ++begin) {
    for (int64_t end = begin; end <= 24; ++end) {
      const std::vector<int64_t> want(all.begin() + begin, all.begin() + end);
      if (Places(StoredPieces(spec, begin, end)) != want) FAIL("[" << begin << ", " << end << ")");
    }
  }
  const std::vector<StoredPiece> pieces = StoredPieces(spec, 2, 22);
  REQUIRE(pieces.size() == 3);
  CHECK(pieces[1].part->name == "k");
  CHECK(pieces[1].begin == 12);

  // Whole rows are one run, however the tensor is stored.
  ParamSpec patch = Matrix("patch", 4, 12);
  patch.hf_parts[0].shape = {8, 3, 2, 2};
  patch.hf_parts[0].first_row = 3;
  const std::vector<StoredPiece> whole = StoredPieces(patch, 5, 40);
  REQUIRE(whole[0].runs.size() == 1);
  CHECK(whole[0].runs[0].begin == 41);
  CHECK(whole[0].runs[0].length == 35);
}

TEST_CASE("A fresh model is the same whatever part of it a rank holds") {
  const auto cpu = NewCpuDevice();
  const auto stream = cpu->NewStream();
  const auto draw = [&](ParamStore* params) {
    ParamStore::AllocateOptions options;
    options.dtype = DType::kF64;
    params->Allocate(*cpu, options);
    params->Initialize(11, 0.5, *stream);
  };
  ParamStore whole;
  whole.Add(Matrix("a", 6, 8));
  whole.Add(Matrix("b", 6, 8));
  draw(&whole);
  ParamStore fused;  // rows 2..4 of b and 0..1 of a, columns 3..7, under another name
  ParamSpec spec = Matrix("fused", 5, 5);
  spec.hf_parts = {{"hf.b", 0, 3, {6, 8}, 2, 3}, {"hf.a", 3, 2, {6, 8}, 0, 3}};
  fused.Add(spec);
  draw(&fused);
  const double *a = whole.value(0).ptr<double>(), *b = whole.value(1).ptr<double>();
  for (int64_t row = 0; row < 5; ++row) {
    const double* from = row < 3 ? b + (row + 2) * 8 : a + (row - 3) * 8;
    for (int64_t column = 0; column < 5; ++column) {
      CHECK(fused.value(0).ptr<double>()[row * 5 + column] == from[3 + column]);
    }
  }
  CHECK(a[0] != b[0]);
  CHECK(a[0] != a[1]);
}

}  // namespace
}  // namespace omnitrain
