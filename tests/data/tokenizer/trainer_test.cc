#include "data/tokenizer/trainer.h"

#include <cstdlib>
#include <map>
#include <unordered_map>

#include "data/tokenizer/bpe_learner.h"
#include "data/tokenizer/tokenizer.h"
#include "tests/data/tokenizer/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

std::string Dir(const std::string& name) {
  const char* dir = std::getenv("TEST_TMPDIR");
  return std::string(dir != nullptr ? dir : "/tmp") + "/" + name;
}

std::string Corpus() {
  const Json cases = ReadJsonFile(GoldenCasesPath(), ErrorCode::kData);
  std::string text;
  for (const Json& entry : cases) text += entry.at("decoded").get<std::string>() + "\n";
  return text;
}

// Byte-pair encoding by its definition: count all pairs anew for every merge.
std::vector<BpeMerge> Reference(const std::vector<std::string>& words, size_t num_merges,
                                int64_t min_count) {
  const LearnedBpe bytes = LearnBpe(WordCounts(), 256, 1);
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < 256; ++i) ids[bytes.tokens[i]] = static_cast<int32_t>(i);
  std::vector<std::string> tokens = bytes.tokens;
  std::vector<std::vector<int32_t>> split;
  for (const std::string& word : words) {
    split.emplace_back();
    for (const char c : word) split.back().push_back(ids[std::string(1, c)]);
  }
  std::vector<BpeMerge> merges;
  while (merges.size() < num_merges) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& word : split) {
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    }
    std::pair<int32_t, int32_t> best;
    int64_t most = 0;
    for (const auto& [pair, count] : counts) {
      if (count > most) best = pair, most = count;
    }
    if (most < min_count) break;
    const std::string token =
        tokens[static_cast<size_t>(best.first)] + tokens[static_cast<size_t>(best.second)];
    if (ids.emplace(token, static_cast<int32_t>(tokens.size())).second) tokens.push_back(token);
    merges.push_back({best.first, best.second, ids[token]});
    for (auto& word : split) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] != best.first || word[i + 1] != best.second) continue;
        word[i] = ids[token];
        word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      }
    }
  }
  return merges;
}

TEST_CASE("Merges are those of the definition") {
  std::vector<std::string> words;
  WordCounts counts;
  for (uint64_t i = 0; i < 400; ++i) {
    std::string word;
    for (const char c : RandomText(31, i, 8)) word.push_back(static_cast<char>('a' + (c & 3)));
    if (word.empty()) continue;
    words.push_back(word);
    counts.Add(word);
  }
  const std::vector<BpeMerge> want = Reference(words, 120, 3);
  const LearnedBpe got = LearnBpe(counts, 256 + 120, 3);
  REQUIRE(got.merges.size() >= 50);
  for (size_t i = 0; i < std::min(want.size(), got.merges.size()); ++i) {
    INFO("merge " << i);
    REQUIRE(got.merges[i].left == want[i].left);
    REQUIRE(got.merges[i].right == want[i].right);
    REQUIRE(got.merges[i].merged == want[i].merged);
  }
}

TEST_CASE("A trained tokenizer loads, is whole and encodes") {
  TokenizerTraining training;
  training.vocab_size = 800;
  TokenizerTrainer trainer(training);
  trainer.AddText(Corpus());
  REQUIRE(trainer.Write(Dir("trained")) == 800);
  const Tokenizer t = Tokenizer::Load(Dir("trained") + "/tokenizer.json");
  CHECK(t.vocab_size() == 800);
  const int first_special = 800 - static_cast<int>(QwenSpecialTokens().size());
  CHECK(t.TokenId("<|endoftext|>") == first_special);
  CHECK(t.TokenId("<|im_start|>") == first_special + 1);
  CHECK(t.IsSpecial(*t.TokenId("<|image_pad|>")));
  CHECK(t.Encode("<|im_end|>") == std::vector<int32_t>{first_special + 2});
  const std::string text = "the cat's \u4e2d\u6587 \U0001F600\n\n 12";
  CHECK(t.Decode(t.Encode(text)) == text);
  size_t num_tokens = t.Encode(Corpus()).size();
  CHECK(num_tokens * 2 < Corpus().size());
  const Json config = ReadJsonFile(Dir("trained") + "/tokenizer_config.json", ErrorCode::kData);
  CHECK(config.at("eos_token") == "<|im_end|>");
  CHECK(config.at("pad_token") == "<|endoftext|>");
  CHECK(config.at("chat_template").get<std::string>().find("<|im_start|>") != std::string::npos);
}

TEST_CASE("Training is deterministic, and a file is read as its text") {
  const std::string corpus = Corpus() + std::string(3000, ' ') + "end\n";
  std::string big;
  while (big.size() < (size_t{9} << 20)) big += corpus;  // more than one part of a file
  const std::string file = Dir("corpus.txt");
  WriteFileAtomically(file, big, ErrorCode::kInternal);
  TokenizerTraining training;
  training.vocab_size = 1200;
  TrainTokenizer({file}, training, Dir("from_file"));
  TokenizerTrainer trainer(training);
  trainer.AddText(big);
  trainer.Write(Dir("from_text"));
  trainer.Write(Dir("again"));
  const auto text = [](const char* name) {
    return ReadFile(Dir(name) + "/tokenizer.json", ErrorCode::kData);
  };
  CHECK(text("from_file") == text("from_text"));
  CHECK(text("again") == text("from_text"));
}

TEST_CASE("A small text gives a small vocabulary") {
  TokenizerTraining training;
  training.vocab_size = 5000;
  training.special_tokens = {"<|x|>"};
  TokenizerTrainer trainer(training);
  trainer.AddText("abab abab<|x|>cdcd");
  // "ab" (4), " abab" is one word only: ab+ab (2); c d come twice; the special token cuts and is
  // not learned from.
  const int vocab_size = trainer.Write(Dir("small"));
  CHECK(vocab_size == 256 + 3 + 1);
  const Tokenizer t = Tokenizer::Load(Dir("small") + "/tokenizer.json");
  CHECK(t.TokenId("abab") == 258);
  CHECK(t.TokenId("cd") == 257);
  CHECK(t.TokenId("<|x|>") == 259);
}

TEST_CASE("What cannot be trained is refused") {
  TokenizerTraining training;
  training.vocab_size = 260;
  CHECK_THROWS_WITH(TokenizerTrainer(training), Catch::Matchers::Contains("273"));
  training.vocab_size = 300;
  training.special_tokens = {"<a>", "<a>"};
  CHECK_THROWS_WITH(TokenizerTrainer(training), Catch::Matchers::Contains("twice"));
  training.special_tokens = {};
  CHECK_THROWS_WITH(TokenizerTrainer(training).Write(Dir("none")),
                    Catch::Matchers::Contains("no text"));
  CHECK_THROWS_WITH(TokenizerTrainer(training).AddFile("/nowhere.txt"),
                    Catch::Matchers::Contains("/nowhere.txt"));
}

}  // namespace
}  // namespace omnitrain
