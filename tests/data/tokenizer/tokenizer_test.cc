#include "data/tokenizer/tokenizer.h"

#include <thread>

#include "core/base/error.h"
#include "data/tokenizer/parity.h"
#include "tests/data/tokenizer/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Ids = std::vector<int32_t>;

Json GoldenJson() { return ReadJsonFile(GoldenTokenizerPath(), ErrorCode::kData); }

Tokenizer Golden() {
  static const Tokenizer tokenizer = Tokenizer::Load(GoldenTokenizerPath());
  return tokenizer;
}

Json Added(int id, const char* content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", false}};
}

// The message of the error that loading `json` gives.
std::string Refusal(const Json& json) {
  try {
    Tokenizer::Load(WriteTemporary("refused.json", json));
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kData);
    return e.what();
  }
  return "";
}

TEST_CASE("Every recorded encoding and decoding is exact") {
  const TokenizerParity parity = CompareTokenizer(GoldenTokenizerPath(), GoldenCasesPath());
  INFO(parity.first_difference);
  CHECK(parity.num_cases == 367);
  CHECK(parity.num_exact_encodings == 367);
  CHECK(parity.num_exact_decodings == 367);
  CHECK(parity.passed());
}

TEST_CASE("Parity counts and names what differs") {
  Json cases = ReadJsonFile(GoldenCasesPath(), ErrorCode::kData);
  cases[7]["ids"].push_back(0);
  const TokenizerParity parity =
      CompareTokenizer(GoldenTokenizerPath(), WriteTemporary("cases.json", cases));
  CHECK_FALSE(parity.passed());
  CHECK(parity.num_exact_encodings == 366);
  CHECK(parity.num_exact_decodings == 366);
  CHECK(parity.first_difference.find("case 7") == 0);
}

TEST_CASE("Merges may be pairs or strings") {
  Json json = GoldenJson();
  for (Json& merge : json["model"]["merges"]) {
    REQUIRE(merge.is_array());
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const std::string path = WriteTemporary("string_merges.json", json);
  CHECK(CompareTokenizer(path, GoldenCasesPath()).passed());
}

TEST_CASE("Token names") {
  const Tokenizer t = Golden();
  CHECK(t.vocab_size() == 4011);
  CHECK(t.TokenId("<|im_end|>") == 4002);
  CHECK(t.TokenId("\u0120the") == 303);
  CHECK_FALSE(t.TokenId(" the").has_value());
  CHECK(t.TokenText(303) == "\u0120the");
  CHECK(t.TokenBytes(303) == " the");
  CHECK(t.TokenText(-1).empty());
  CHECK(t.TokenText(4011).empty());
  CHECK(t.IsSpecial(4002));
  CHECK_FALSE(t.IsSpecial(303));
  CHECK(t.Decode({64, 4002, 99999, 65}) == "a<|im_end|>b");
  CHECK(t.Decode({64, 4002, 65}, true) == "ab");
}

TEST_CASE("Bytes that are not UTF-8 are read and written as U+FFFD") {
  const Tokenizer t = Golden();
  // Pairs as Python decodes them with errors="replace".
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\xff"
       "b",
       "a\uFFFD"
       "b"},
      {"\xe4\xb8", "\uFFFD"},
      {"\xe4\xb8"
       "a",
       "\uFFFD"
       "a"},
      {"\xf0\x9f\x98", "\uFFFD"},
      {"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xc0\xaf", "\uFFFD\uFFFD"},
      {"\xf5\x80", "\uFFFD\uFFFD"},
      {"\xe0\x80\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xf0\x90\x80", "\uFFFD"}};
  for (const auto& [bytes, text] : cases) {
    CHECK(t.Encode(bytes) == t.Encode(text));
    CHECK(t.Decode(t.Encode(bytes)) == text);
  }
  const Ids smile = t.Encode("\U0001F600");
  REQUIRE(smile.size() > 1);
  CHECK(t.Decode({smile[0], 64}) ==
        "\uFFFD"
        "a");  // half of a character
}

TEST_CASE("Decoding gives back what was encoded") {
  Json json = GoldenJson();
  json["normalizer"] = nullptr;
  const Tokenizer t = Tokenizer::Load(WriteTemporary("no_nfc.json", json));
  for (uint64_t i = 0; i < 3000; ++i) {
    const std::string text = RandomText(3, i, 40);
    REQUIRE(t.Decode(t.Encode(text)) == text);
  }
}

TEST_CASE("Llama-3 style: whole words win, BOS on request") {
  Json json = GoldenJson();
  json["normalizer"] = nullptr;
  json["model"]["ignore_merges"] = true;
  json["model"]["vocab"]["\u0120zzz"] = 4000;  // no merge makes it
  for (Json& token : json["added_tokens"]) token["id"] = token["id"].get<int>() + 1;
  json["post_processor"] = Json::parse(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
      {"type": "TemplateProcessing",
       "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                  {"Sequence": {"id": "A", "type_id": 0}}],
       "pair": [],
       "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [4001],
                                            "tokens": ["<|endoftext|>"]}}}]})");
  const Tokenizer t = Tokenizer::Load(WriteTemporary("llama.json", json));
  CHECK(t.Encode(" zzz", true) == Ids{4001, 4000});
  CHECK(t.Encode(" zzz") == Ids{4000});
  json["model"]["ignore_merges"] = false;
  CHECK(Tokenizer::Load(WriteTemporary("merges.json", json)).Encode(" zzz").size() > 1);
}

TEST_CASE("Flags of added tokens are honoured") {
  Json json = GoldenJson();
  const auto add = [&](int id, const char* content, const char* flag) {
    Json token = Added(id, content);
    if (flag[0] != 0) token[flag] = true;
    json["added_tokens"].push_back(token);
  };
  add(4011, "<think>", "");
  add(4012, "catcat", "single_word");
  add(4013, "[L]", "lstrip");
  add(4014, "[R]", "rstrip");
  add(4015, "q\u00e9q", "normalized");
  add(4016, "<think>x", "");
  add(4017, "w\u00e9w", "");
  const Tokenizer t = Tokenizer::Load(WriteTemporary("added.json", json));
  const auto join = [&](const std::string& before, int id, const std::string& after) {
    Ids ids = t.Encode(before);
    ids.push_back(id);
    for (const int32_t next : t.Encode(after)) ids.push_back(next);
    return ids;
  };
  CHECK(t.Encode("a<think>b") == join("a", 4011, "b"));
  CHECK(t.Encode("a<think>xb") == join("a", 4016, "b"));  // the longest
  CHECK(t.Encode("a catcat.") == join("a ", 4012, "."));
  CHECK(t.Encode("a catcats") == Golden().Encode("a catcats"));
  CHECK(t.Encode("a \n[L] b") == join("a", 4013, " b"));
  CHECK(t.Encode("a [R] \n b") == join("a ", 4014, "b"));
  CHECK(t.Encode("qe\u0301q") == Ids{4015});  // looked for behind NFC
  CHECK(t.Encode("we\u0301w") == Golden().Encode("w\u00e9w"));
  CHECK(t.Encode("[L]<|im_end|>[R]") == Ids{4013, 4002, 4014});
}

TEST_CASE("A prefix space, and GPT-2's own pattern") {
  Json json = GoldenJson();
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = Json::parse(
      R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})");
  const Tokenizer t = Tokenizer::Load(WriteTemporary("gpt2.json", json));
  CHECK(t.Encode("the") == Ids{303});
  CHECK(t.Encode(" the") == Ids{303});
  CHECK(t.Encode("").empty());
}

TEST_CASE("What is not byte-level BPE is refused by name") {
  const auto with = [](const char* pointer, const Json& value) {
    Json json = GoldenJson();
    json[Json::json_pointer(pointer)] = value;
    return Refusal(json);
  };
  const auto says = [](const std::string& message, const char* part) {
    INFO(message);
    return message.find(part) != std::string::npos &&
           message.find("refused.json") != std::string::npos;
  };
  CHECK(says(with("/model/type", "WordPiece"), "model WordPiece"));
  CHECK(says(with("/model/type", "Unigram"), "model Unigram"));
  CHECK(says(with("/model/byte_fallback", true), "byte_fallback"));
  CHECK(says(with("/model/dropout", 0.1), "dropout"));
  CHECK(says(with("/model/end_of_word_suffix", "</w>"), "end_of_word_suffix"));
  CHECK(says(with("/normalizer", {{"type", "Lowercase"}}), "normalizer Lowercase"));
  CHECK(says(with("/pre_tokenizer", {{"type", "Metaspace"}}), "pre_tokenizer Metaspace"));
  CHECK(says(with("/pre_tokenizer", nullptr), "ByteLevel"));
  CHECK(says(with("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext"), "MergedWithNext"));
  CHECK(says(with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "a("), "a("));
  CHECK(says(with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "[a&&b]"), "intersection"));
  CHECK(says(with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "a{1,3}+"), "repetition"));
  CHECK(says(with("/decoder", {{"type", "WordPiece"}}), "decoder WordPiece"));
  CHECK(says(with("/post_processor", {{"type", "BertProcessing"}}), "BertProcessing"));
  CHECK(says(with("/model/merges/3", {"\u0120", "nowhere"}), "nowhere"));
  CHECK(says(with("/added_tokens/10/id", 4020), "4020"));
  CHECK(says(with("/model/vocab/!", 1), "id 1"));
  CHECK(says(with("/model", nullptr), "no model"));
  CHECK(says(Refusal(Json::array()), "not a tokenizer.json"));
  CHECK_THROWS_AS(Tokenizer::Load("/nowhere/tokenizer.json"), Error);
}

TEST_CASE("A byte without token is refused when it comes") {
  Json json = GoldenJson();
  json["model"]["merges"] = Json::array();
  json["model"]["vocab"] = {{"a", 0}, {"b", 1}};
  json["added_tokens"] = Json::array();
  const Tokenizer t = Tokenizer::Load(WriteTemporary("tiny.json", json));
  CHECK(t.Encode("ab") == Ids{0, 1});
  CHECK_THROWS_WITH(t.Encode("abc"), Catch::Matchers::Contains("0x63"));
}

TEST_CASE("Threads share a tokenizer") {
  const Tokenizer shared = Tokenizer::Load(GoldenTokenizerPath());
  std::vector<std::string> texts;
  std::vector<Ids> want;
  for (uint64_t i = 0; i < 500; ++i) {
    texts.push_back(RandomText(11, i, 60));
    want.push_back(Golden().Encode(texts.back()));
  }
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t k = 0; k < wrong.size(); ++k) {
    threads.emplace_back([&, k] {
      for (size_t i = 0; i < texts.size(); ++i) wrong[k] += shared.Encode(texts[i]) != want[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

}  // namespace
}  // namespace omnitrain
