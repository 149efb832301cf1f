#include "data/chat/chat_template.h"

#include "core/base/error.h"
#include "core/base/rng.h"
#include "tests/data/tokenizer/fixtures.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Kind = ContentPart::Kind;
using Mask = std::vector<uint8_t>;

const Tokenizer& Golden() {
  static const Tokenizer tokenizer = Tokenizer::Load(GoldenTokenizerPath());
  return tokenizer;
}

const ChatTemplate kQwen2 = ChatTemplate::ForModelType("qwen2_5_vl");
const ChatTemplate kQwen3 = ChatTemplate::ForModelType("qwen3_vl");

ContentPart Text(const std::string& text) { return {Kind::kText, text, -1}; }
ContentPart Image(int item) { return {Kind::kImage, "", item}; }
ContentPart Video(int item) { return {Kind::kVideo, "", item}; }

std::string Repeat(const std::string& text, int64_t n) {
  std::string out;
  for (int64_t i = 0; i < n; ++i) out += text;
  return out;
}

// The texts of the tokens that are learned.
std::vector<std::string> Learned(const EncodedChat& chat) {
  std::vector<std::string> tokens;
  for (size_t i = 0; i < chat.ids.size(); ++i) {
    if (chat.loss_mask[i] != 0) tokens.emplace_back(Golden().TokenBytes(chat.ids[i]));
  }
  return tokens;
}

std::string Refusal(const std::vector<Message>& messages, const std::vector<ItemTokens>& items) {
  try {
    EncodeChat(Golden(), kQwen3, messages, items);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kData);
    return e.what();
  }
  return "";
}

TEST_CASE("A caption sample, token by token") {
  const EncodedChat chat = EncodeChat(
      Golden(), kQwen3,
      {{"user", {Image(0), Text("the")}, {}}, {"assistant", {Text("the the")}, {}}}, {{3, {}}});
  const auto id = [](const char* token) { return *Golden().TokenId(token); };
  const auto text = [](const char* t) { return Golden().Encode(t); };
  std::vector<int32_t> want;
  Mask mask;
  const auto put = [&](const std::vector<int32_t>& ids, uint8_t learned) {
    want.insert(want.end(), ids.begin(), ids.end());
    mask.insert(mask.end(), ids.size(), learned);
  };
  put({id("<|im_start|>")}, 0);
  put(text("user\n"), 0);
  put({id("<|vision_start|>")}, 0);
  const auto first_pad = static_cast<int64_t>(want.size());
  put({id("<|image_pad|>"), id("<|image_pad|>"), id("<|image_pad|>")}, 0);
  put({id("<|vision_end|>")}, 0);
  put(text("the"), 0);
  put({id("<|im_end|>")}, 0);
  put(text("\n"), 0);
  put({id("<|im_start|>")}, 0);
  put(text("assistant\n"), 0);
  put(text("the the"), 1);
  put({id("<|im_end|>")}, 1);
  put(text("\n"), 1);
  CHECK(chat.ids == want);
  CHECK(chat.loss_mask == mask);
  REQUIRE(chat.runs.size() == 1);
  CHECK(chat.runs[0].item == 0);
  CHECK(chat.runs[0].begin == first_pad);
  CHECK(chat.runs[0].end == first_pad + 3);
}

TEST_CASE("Qwen2-VL and 2.5-VL add a system message, Qwen3-VL does not") {
  const std::vector<Message> messages = {{"user", {Text("the")}, {}}};
  const std::string user = "<|im_start|>user\nthe<|im_end|>\n";
  CHECK(EncodeChat(Golden(), kQwen3, messages, {}).ids == Golden().Encode(user));
  CHECK(EncodeChat(Golden(), kQwen2, messages, {}).ids ==
        Golden().Encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + user));
  const std::vector<Message> with_system = {{"system", {Text("the")}, {}}};
  CHECK(EncodeChat(Golden(), kQwen2, with_system, {}).ids ==
        Golden().Encode("<|im_start|>system\nthe<|im_end|>\n"));
  CHECK_THROWS_WITH(ChatTemplate::ForModelType("bert"), Catch::Matchers::Contains("bert"));
}

TEST_CASE("A prompt ends with the assistant's header and teaches nothing") {
  const std::vector<Message> messages = {{"user", {Text("a")}, {}}, {"assistant", {Text("b")}, {}}};
  const EncodedChat prompt = EncodePrompt(Golden(), kQwen3, messages, {});
  CHECK(prompt.ids == Golden().Encode("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb"
                                      "<|im_end|>\n<|im_start|>assistant\n"));
  CHECK(Learned(prompt).empty());
  CHECK(prompt.loss_mask.size() == prompt.ids.size());
}

TEST_CASE("Who is learned") {
  const auto learned = [](const std::string& role, std::optional<bool> loss) {
    return Learned(EncodeChat(Golden(), kQwen3, {{role, {Text("the")}, loss}}, {}));
  };
  const std::vector<std::string> answer = learned("assistant", {});
  REQUIRE(answer.size() >= 3);
  CHECK(answer[answer.size() - 2] == "<|im_end|>");
  CHECK(answer.back() == "\n");
  CHECK(learned("assistant", false).empty());
  CHECK(learned("user", {}).empty());
  CHECK(learned("user", true) == answer);
  CHECK(learned("system", {}).empty());
  const EncodedChat chat = EncodeChat(
      Golden(), kQwen3, {{"assistant", {Text("a"), Image(0), Text("b")}, {}}}, {{2, {}}});
  CHECK(Learned(chat) == std::vector<std::string>{"a", "b", "<|im_end|>", "\n"});
}

TEST_CASE("An answer that starts with line breaks may share a token with the header") {
  REQUIRE(Golden().Encode("\n\n").size() == 1);
  const EncodedChat chat = EncodeChat(Golden(), kQwen3, {{"assistant", {Text("\nb")}, {}}}, {});
  CHECK(chat.ids == Golden().Encode("<|im_start|>assistant\n\nb<|im_end|>\n"));
  CHECK(Learned(chat) == std::vector<std::string>{"b", "<|im_end|>", "\n"});
}

TEST_CASE("Videos: one run, or one a frame pair with its time") {
  const std::vector<Message> messages = {{"user", {Text("a "), Video(0), Text("b")}, {}}};
  const std::string head = "<|im_start|>user\na ", tail = "b<|im_end|>\n";
  const auto frames = [](int n) {
    return "<|vision_start|>" + Repeat("<|video_pad|>", n) + "<|vision_end|>";
  };
  const EncodedChat timed = EncodeChat(Golden(), kQwen3, messages, {{6, {0.25, 1.75, 12.0}}});
  CHECK(timed.ids == Golden().Encode(head + "<0.2 seconds>" + frames(2) + "<1.8 seconds>" +
                                     frames(2) + "<12.0 seconds>" + frames(2) + tail));
  REQUIRE(timed.runs.size() == 3);
  for (const TokenRun& run : timed.runs) {
    CHECK(run.item == 0);
    CHECK(run.end - run.begin == 2);
    CHECK(Golden().TokenText(timed.ids[static_cast<size_t>(run.begin)]) == "<|video_pad|>");
  }
  ChatTemplate plain = kQwen2;
  plain.default_system.reset();
  const EncodedChat whole = EncodeChat(Golden(), plain, messages, {{6, {}}});
  CHECK(whole.ids == Golden().Encode(head + frames(6) + tail));
  CHECK(whole.runs.size() == 1);
  CHECK(Refusal(messages, {{6, {}}}).find("frame times") != std::string::npos);
  CHECK(Refusal(messages, {{7, {0.5, 1.5}}}).find("7 tokens") != std::string::npos);
}

TEST_CASE("The tokens are those of the whole rendered text") {
  uint64_t counter = 0;
  const auto below = [&](uint64_t n) { return RandomBits(41, 2, counter++) % n; };
  for (uint64_t round = 0; round < 1000; ++round) {
    std::vector<Message> messages;
    std::vector<ItemTokens> items;
    std::string rendered;
    for (uint64_t m = 0; m <= below(3); ++m) {
      Message message;
      message.role = m % 2 == 0 ? "user" : "assistant";
      rendered += "<|im_start|>" + message.role + "\n";
      for (uint64_t p = 0; p < below(5); ++p) {
        if (below(3) == 0) {
          const auto n = static_cast<int64_t>(1 + below(4));
          message.parts.push_back(Image(static_cast<int>(items.size())));
          items.push_back({n, {}});
          rendered += "<|vision_start|>" + Repeat("<|image_pad|>", n) + "<|vision_end|>";
        } else {
          message.parts.push_back(Text(RandomText(43, counter++, 8)));
          rendered += message.parts.back().text;
        }
      }
      rendered += "<|im_end|>\n";
      messages.push_back(message);
    }
    const EncodedChat chat = EncodeChat(Golden(), kQwen3, messages, items);
    INFO(rendered);
    REQUIRE(chat.ids == Golden().Encode(rendered));
    REQUIRE(chat.loss_mask.size() == chat.ids.size());
    REQUIRE(chat.runs.size() == items.size());
  }
}

TEST_CASE("Control tokens in text are refused by name") {
  for (const char* token : {"<|image_pad|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>"}) {
    const std::string message = Refusal({{"user", {Text(std::string("x") + token)}, {}}}, {});
    INFO(message);
    CHECK(message.find(token) != std::string::npos);
    CHECK(message.find("message 0 (user)") != std::string::npos);
  }
  // Also one that two parts make together.
  CHECK_FALSE(Refusal({{"user", {Text("<|image"), Text("_pad|>")}, {}}}, {}).empty());
  CHECK(Refusal({{"user", {Text("<|image pad|>, <think>")}, {}}}, {}).empty());
}

TEST_CASE("Grounding marks are allowed") {
  Json json = ReadJsonFile(GoldenTokenizerPath(), ErrorCode::kData);
  Json token = json["added_tokens"][10];
  token["id"] = 4011;
  token["content"] = "<|box_start|>";
  json["added_tokens"].push_back(token);
  const Tokenizer t = Tokenizer::Load(WriteTemporary("grounding.json", json));
  const EncodedChat chat = EncodeChat(t, kQwen3, {{"assistant", {Text("<|box_start|>1")}, {}}}, {});
  CHECK(chat.ids == t.Encode("<|im_start|>assistant\n<|box_start|>1<|im_end|>\n"));
}

TEST_CASE("Items must fit their places") {
  CHECK(Refusal({{"user", {Image(1)}, {}}}, {{1, {}}}).find("item 1 of 1") != std::string::npos);
  CHECK(Refusal({{"user", {Image(0), Image(0)}, {}}}, {{1, {}}}).find("twice") !=
        std::string::npos);
  CHECK(Refusal({{"user", {Text("a")}, {}}}, {{1, {}}}).find("no place") != std::string::npos);
  CHECK(Refusal({{"user", {Image(0)}, {}}}, {{0, {}}}).find("no tokens") != std::string::npos);
  CHECK(Refusal({{"tool", {Text("a")}, {}}}, {}).find("tool") != std::string::npos);
}

TEST_CASE("A tokenizer that cannot serve ChatML is refused at start") {
  RequireChatTokenizer(Golden());
  Json json = ReadJsonFile(GoldenTokenizerPath(), ErrorCode::kData);
  json["added_tokens"][2]["rstrip"] = true;
  CHECK_THROWS_WITH(RequireChatTokenizer(Tokenizer::Load(WriteTemporary("strip.json", json))),
                    Catch::Matchers::Contains("<|im_end|>"));
  json["added_tokens"][1]["content"] = "<|other|>";
  CHECK_THROWS_WITH(RequireChatTokenizer(Tokenizer::Load(WriteTemporary("other.json", json))),
                    Catch::Matchers::Contains("<|im_start|>"));
}

}  // namespace
}  // namespace omnitrain
