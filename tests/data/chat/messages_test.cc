#include "data/chat/messages.h"

#include "core/base/error.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Kind = ContentPart::Kind;

// A sample as text: role[part|part...], with {i} for an image and {i:video} for a video.
std::string Show(const ChatSample& sample) {
  std::string out;
  for (const Message& message : sample.messages) {
    out += message.role + (message.loss ? (*message.loss ? "+" : "-") : "") + "[";
    for (size_t i = 0; i < message.parts.size(); ++i) {
      const ContentPart& part = message.parts[i];
      if (i > 0) out += "|";
      if (part.kind == Kind::kText) {
        out += part.text;
      } else {
        const ItemRef& item = sample.items.at(static_cast<size_t>(part.item));
        CHECK(item.kind == part.kind);
        out += "{";
        for (size_t k = 0; k < item.sources.size(); ++k)
          out += (k > 0 ? "," : "") + item.sources[k];
        out += part.kind == Kind::kVideo ? ":video}" : "}";
      }
    }
    out += "]";
  }
  return out;
}

std::string Parse(const std::string& json) { return Show(ParseChatSample(json, "f.jsonl:7")); }

std::string Refusal(const std::string& json) {
  try {
    ParseChatSample(json, "f.jsonl:7");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kData);
    CHECK(std::string(e.what()).find("f.jsonl:7") == 0);
    return e.what();
  }
  return "";
}

bool Has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

TEST_CASE("messages with tags") {
  CHECK(Parse(R"({"messages": [{"role": "user", "content": "<image>\nWhat?<image>"},
                               {"role": "assistant", "content": "Two."}],
                  "images": ["a.png", {"path": "b.png"}]})") ==
        "user[{a.png}|\nWhat?|{b.png}]assistant[Two.]");
  CHECK(Parse(R"({"messages": [{"role": "user", "content": "<video>x<image>"}],
                  "images": "a.png", "videos": [["0.png", "1.png"]]})") ==
        "user[{0.png,1.png:video}|x|{a.png}]");
  CHECK(Parse(R"({"messages": [{"role": "system", "content": "s"},
                               {"role": "assistant", "content": "a", "loss": false},
                               {"role": "assistant", "content": "", "loss": 1}]})") ==
        "system[s]assistant-[a]assistant+[]");
}

TEST_CASE("content lists") {
  CHECK(Parse(R"({"messages": [{"role": "user", "content": [
                    {"type": "image", "image": "a.png"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    {"type": "video", "video": ["0.png", "1.png"]},
                    {"type": "image"},
                    {"type": "text", "text": "Compare."}]}],
                  "images": ["next.png"]})") ==
        "user[{a.png}|{data:image/png;base64,AA==}|{0.png,1.png:video}|{next.png}|Compare.]");
}

TEST_CASE("LLaVA conversations") {
  CHECK(Parse(R"({"id": "1", "image": "a.jpg", "conversations": [
                    {"from": "human", "value": "<image>\nWhat is it?"},
                    {"from": "gpt", "value": "A cat."}]})") ==
        "user[{a.jpg}|\nWhat is it?]assistant[A cat.]");
  CHECK(Parse(R"({"system": "s", "conversations": [{"from": "human", "value": "q"}]})") ==
        "system[s]user[q]");
}

TEST_CASE("Counts that differ are told with both numbers") {
  const std::string few = Refusal(
      R"({"messages": [{"role": "user", "content": "<image><image><image>"}], "images": ["a", "b"]})");
  CHECK(Has(few, "3 <image> tags"));
  CHECK(Has(few, "2 files"));
  const std::string many =
      Refusal(R"({"messages": [{"role": "user", "content": "x"}], "videos": ["a"]})");
  CHECK(Has(many, "0 <video> tags"));
  CHECK(Has(many, "1 files"));
}

TEST_CASE("What is broken or would change the training is refused") {
  CHECK(Has(Refusal("{"), "parse error"));
  CHECK(Has(Refusal("[]"), "JSON object"));
  CHECK(Has(Refusal("{}"), "neither"));
  CHECK(Has(Refusal(R"({"messages": []})"), "no messages"));
  CHECK(Has(Refusal(R"({"messages": [{"content": "x"}]})"), "role"));
  CHECK(Has(Refusal(R"({"messages": [{"role": "user", "content": null}]})"), "string"));
  CHECK(Has(Refusal(R"({"messages": [{"role": "user", "content": "x", "loss_scale": 0.5}]})"),
            "loss_scale"));
  CHECK(Has(Refusal(R"({"messages": [{"role": "user", "content": "x"}], "audios": ["a.wav"]})"),
            "audios"));
  CHECK(Has(Refusal(R"({"messages": [{"role": "user", "content": "<audio>"}]})"), "<audio>"));
  CHECK(Has(Refusal(R"({"messages": [{"role": "user", "content": [{"type": "audio"}]}]})"),
            "'audio'"));
  CHECK(Has(Refusal(R"({"messages": [{"role": "user", "content": "<image>"}], "images": [3]})"),
            "given as 3"));
  CHECK(Refusal(R"({"messages": [{"role": "user", "content": "x"}], "images": [], "objects": {}})")
            .empty());
}

}  // namespace
}  // namespace omnitrain
