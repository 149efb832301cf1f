#include "core/checkpoint/hf_directory.h"

#include <cstring>

#include "core/base/json.h"
#include "core/checkpoint/file.h"
#include "core/checkpoint/hf_save.h"
#include "tests/core/checkpoint/files.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

const char* const kConfig =
    R"({"model_type": "toy", "torch_dtype": "float32", "text_config": {"dtype": "float32"},)"
    R"( "rms_norm_eps": 1e-06})";

// Tensors t0, t1, ... of 100 singles each, and lm_head.weight.
std::vector<TensorSource> MakeTensors(int count, DType dtype) {
  std::vector<TensorSource> tensors;
  for (int t = 0; t < count; ++t) {
    tensors.push_back({t + 1 == count ? "lm_head.weight" : "t" + std::to_string(t),
                       dtype,
                       {10, 10},
                       DType::kF32,
                       [t](int64_t begin, int64_t n, void* out) {
                         for (int64_t i = 0; i < n; ++i) {
                           static_cast<float*>(out)[i] =
                               static_cast<float>(t * 100 + begin + i) / 8;
                         }
                       }});
  }
  return tensors;
}

HfSaveOptions Options(int64_t max_shard_bytes, const std::string& config = kConfig) {
  HfSaveOptions options;
  options.max_shard_bytes = max_shard_bytes;
  options.side_files = {{"config.json", config}, {"tokenizer.json", "{\"a\" :1}"}};
  return options;
}

TEST_CASE("One file or shards hold the same") {
  TemporaryDirectory d;
  SaveHfDirectory(d / "one", MakeTensors(5, DType::kF32), Options(1 << 20));
  SaveHfDirectory(d / "many/", MakeTensors(5, DType::kF32), Options(900));
  CHECK(ListDirectory(d.path()) == std::vector<std::string>{"many", "one"});
  CHECK(ListDirectory(d / "one") ==
        std::vector<std::string>{"config.json", "model.safetensors", "tokenizer.json"});
  CHECK(ListDirectory(d / "many") ==
        std::vector<std::string>{
            "config.json", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors", "model.safetensors.index.json", "tokenizer.json"});
  CHECK(ReadBytes(d / "one/config.json") == kConfig);
  CHECK(ReadBytes(d / "many/tokenizer.json") == "{\"a\" :1}");
  const Json index = ReadJsonFile(d / "many/model.safetensors.index.json", ErrorCode::kCheckpoint);
  CHECK(index["metadata"]["total_size"] == 2000);
  CHECK(index["weight_map"]["t2"] == "model-00002-of-00003.safetensors");

  const HfDirectory one = HfDirectory::Open(d / "one"), many = HfDirectory::Open(d / "many");
  CHECK(many.names() == std::vector<std::string>{"t0", "t1", "t2", "t3", "lm_head.weight"});
  CHECK(one.names() == many.names());
  CHECK(Contains(many.FileOf("t3").path(), "model-00002-of-00003"));
  for (const std::string& name : one.names()) {
    CHECK(one.ReadAll<double>(name) == many.ReadAll<double>(name));
  }
  CHECK(many.ReadAll<float>("t3")[7] == 307.0f / 8);
  CHECK(Contains(MessageOf([&] { many.Find("x"); }), "many: holds no tensor x"));
  CHECK(Contains(MessageOf([&] { many.RequireShape("t0", {100}); }), "[10, 10]"));
}

TEST_CASE("Another float type changes those keys of config.json only") {
  TemporaryDirectory d;
  SaveHfDirectory(d / "m", MakeTensors(2, DType::kBF16), Options(1 << 20));
  Json want = Json::parse(kConfig);
  want["torch_dtype"] = want["text_config"]["dtype"] = "bfloat16";
  CHECK(ReadBytes(d / "m/config.json") == want.dump(2) + "\n");
  CHECK(HfDirectory::Open(d / "m").Find("t0").dtype == StoredDType::kBF16);
}

TEST_CASE("A tied head is left out; the top level of the config decides") {
  TemporaryDirectory d;
  const auto has_head = [&](const std::string& config) {
    SaveHfDirectory(d / "m", MakeTensors(2, DType::kF32), Options(1 << 20, config));
    return HfDirectory::Open(d / "m").Has("lm_head.weight");
  };
  CHECK_FALSE(has_head(R"({"tie_word_embeddings": true})"));
  CHECK_FALSE(has_head(R"({"text_config": {"tie_word_embeddings": true}})"));
  CHECK(
      has_head(R"({"tie_word_embeddings": false, "text_config": {"tie_word_embeddings": true}})"));
  CHECK(has_head(R"({})"));
}

TEST_CASE("Side files come from a directory, the target itself included") {
  TemporaryDirectory d;
  SaveHfDirectory(d / "m", MakeTensors(2, DType::kF32), Options(1 << 20));
  WriteBytes(d / "m/merges.txt", "a b\n");
  HfSaveOptions options;
  options.side_files_from = d / "m";
  options.side_files = {{"tokenizer.json", "new"}};
  SaveHfDirectory(d / "m", MakeTensors(3, DType::kF32), options);
  CHECK(ReadBytes(d / "m/merges.txt") == "a b\n");
  CHECK(ReadBytes(d / "m/tokenizer.json") == "new");
  CHECK(ReadBytes(d / "m/config.json") == kConfig);
  CHECK(HfDirectory::Open(d / "m").names().size() == 3);
  CHECK(ListDirectory(d.path()) == std::vector<std::string>{"m"});
  options.side_files_from = d.path();
  CHECK(Contains(MessageOf([&] { SaveHfDirectory(d / "m", MakeTensors(3, DType::kF32), options); }),
                 "no config.json"));
}

TEST_CASE("A full disk, or files that are no model's, leave the old directory alone") {
  TemporaryDirectory d;
  SaveHfDirectory(d / "m", MakeTensors(3, DType::kF32), Options(1 << 20));
  const std::string old = ReadBytes(d / "m/model.safetensors");
  const auto save = [&] { SaveHfDirectory(d / "m", MakeTensors(9, DType::kF32), Options(3000)); };
  {
    FileSizeLimit full(2000);
    CHECK(Contains(MessageOf(save), "cannot write: File too large"));
  }
  CHECK(ReadBytes(d / "m/model.safetensors") == old);
  CHECK(ListDirectory(d.path()) == std::vector<std::string>{"m"});
  WriteBytes(d / "m/thesis.tex", "years of work");
  CHECK(Contains(MessageOf(save), "holds thesis.tex"));
  std::filesystem::remove(d / "m/thesis.tex");
  std::filesystem::create_directories(d / "m.part/left over");
  save();
  CHECK_FALSE(std::filesystem::exists(d / "m/model.safetensors"));
  CHECK(HfDirectory::Open(d / "m").names().size() == 9);
  CHECK(ListDirectory(d.path()) == std::vector<std::string>{"m"});
}

TEST_CASE("Directories that do not add up are refused") {
  TemporaryDirectory d;
  const auto message = [&] { return MessageOf([&] { HfDirectory::Open(d / "m"); }); };
  CHECK(Contains(message(), "m: not a directory"));
  std::filesystem::create_directories(d / "m");
  CHECK(Contains(message(), "holds neither"));
  WriteBytes(d / "m/pytorch_model.bin", "");
  CHECK(Contains(message(), "save the model as safetensors"));
  std::filesystem::remove_all(d / "m");

  SaveHfDirectory(d / "m", MakeTensors(5, DType::kF32), Options(900));
  const std::string index_path = d / "m/model.safetensors.index.json";
  const std::string second = d / "m/model-00002-of-00003.safetensors";
  const std::string index = ReadBytes(index_path), shard = ReadBytes(second);
  std::filesystem::remove(second);
  CHECK(Contains(message(), "shard model-00002-of-00003.safetensors is missing"));
  CHECK(Contains(message(), "first t2"));
  WriteBytes(second, shard.substr(0, shard.size() - 1));
  CHECK(Contains(message(), "model-00002-of-00003.safetensors: truncated: tensor t3"));
  WriteBytes(second, shard);

  const auto with_map = [&](const std::string& map) {
    WriteBytes(index_path, "{\"weight_map\":" + map + "}");
    return message();
  };
  CHECK(Contains(with_map(R"({"t0":"model-00002-of-00003.safetensors"})"), "holds no tensor t0"));
  CHECK(Contains(with_map(R"({"t0":"../one/model.safetensors"})"), "is no file name"));
  CHECK(Contains(with_map(R"({"t0":3})"), "no file name"));
  CHECK(Contains(with_map("[]"), "no weight_map"));
  WriteBytes(index_path, index.substr(0, index.size() / 2));
  CHECK(Contains(message(), "not valid JSON"));
  WriteBytes(index_path, index);
  CHECK(message() == "no error");
}

}  // namespace
}  // namespace omnitrain
