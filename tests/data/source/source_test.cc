#include "data/source/source.h"

#include <cstdlib>
#include <filesystem>

#include "core/base/json.h"
#include "data/source/messages.h"
#include "tests/support/catch.h"
#include "tools/dataset/tar_writer.h"

namespace omnitrain {
namespace {

std::string Temporary(const std::string& name, const std::string& bytes) {
  const std::string path = std::string(std::getenv("TEST_TMPDIR")) + "/" + name;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  WriteFileAtomically(path, bytes, ErrorCode::kData);
  return path;
}

std::string Tar(const std::vector<std::pair<std::string, std::string>>& files) {
  TarWriter writer;
  for (const auto& [path, bytes] : files) writer.Add(path, bytes);
  return writer.Finish();
}

std::string ReadRefusal(const Source& source, int64_t index) {
  try {
    source.Read(index);
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kData);
    return e.what();
  }
  return "";
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const char* const kTwoImages =
    R"({"messages":[{"role":"user","content":"<image><image>Which?"},{"role":"assistant","content":"Both."}]})";

TEST_CASE("Captions and conversations of tar shards, in all formats") {
  const auto source = OpenSource("tests/data/source/tars/{gnu,pax,ustar}.tar");
  REQUIRE(source->size() == 9);
  for (int64_t shard = 0; shard < 3; ++shard) {
    const RawSample caption = source->Read(3 * shard);
    CHECK(caption.takes_prompt);
    CHECK(Contains(caption.key, ".tar:first"));
    REQUIRE(caption.messages.size() == 2);
    CHECK(caption.messages[1].parts[0].text == "The first.");
    REQUIRE(caption.items.size() == 1);
    CHECK(caption.items[0].Read(4) == "\x89PNG");
    CHECK(caption.items[0].Read().size() == static_cast<size_t>(caption.items[0].size()));

    CHECK(source->Read(3 * shard + 1).messages[1].parts[0].text == "The long one.");

    const RawSample chat = source->Read(3 * shard + 2);
    CHECK_FALSE(chat.takes_prompt);
    REQUIRE(chat.items.size() == 2);
    CHECK(Contains(chat.items[0].name(), ":m.0.png"));
    CHECK(Contains(chat.items[1].name(), ":m.1.png"));
    CHECK(chat.messages[0].parts[2].text == "Which?");
  }
}

TEST_CASE("Images of a conversation: by number, by name, in parts") {
  const std::string named =
      R"({"images":["k.1.jpg","0.png"],"messages":[{"role":"user","content":"<image>a<image>"}]})";
  const std::string parts =
      R"({"messages":[{"role":"user","content":[{"type":"image","image":"1.png"}]}]})";
  const std::string missing =
      R"({"images":["7.png"],"messages":[{"role":"user","content":"<image>"}]})";
  std::vector<std::pair<std::string, std::string>> ten = {{"n.json", kTwoImages}};
  ten.insert(ten.begin(), {{"n.10.png", "ten"}, {"n.2.png", "two"}});
  std::vector<std::pair<std::string, std::string>> files = {
      {"d/k.0.png", "zero"}, {"d/k.1.jpg", "one"}, {"d/k.json", named},
      {"p.0.png", "zero"},   {"p.1.png", "one"},   {"p.json", parts},
      {"q.0.png", "zero"},   {"q.json", missing},  {"r.json", "{broken"}};
  files.insert(files.end(), ten.begin(), ten.end());
  const auto source = OpenSource(Temporary("chats.tar", Tar(files)));
  REQUIRE(source->size() == 5);
  CHECK(source->Read(0).items[0].Read() == "one");
  CHECK(source->Read(0).items[1].Read() == "zero");
  CHECK(source->Read(1).items[0].Read() == "one");
  CHECK(Contains(ReadRefusal(*source, 2), "q.7.png"));
  CHECK(Contains(ReadRefusal(*source, 3), "chats.tar:r"));
  CHECK(source->Read(4).items[0].Read() == "two");
  CHECK(source->Read(4).items[1].Read() == "ten");
}

TEST_CASE("Incomplete keys are refused one by one; a source without a sample at once") {
  const auto source = OpenSource(Temporary("half/s.tar", Tar({{"a.png", "x"},
                                                              {"b.PNG", "x"},
                                                              {"b.txt", "yes"},
                                                              {"b.json", "{}"},
                                                              {"c.png", "x"},
                                                              {"c.txt", " \n"},
                                                              {"README", "no dot"}})));
  REQUIRE(source->size() == 3);
  CHECK(Contains(ReadRefusal(*source, 0), "s.tar:a"));
  CHECK(source->Read(1).messages[1].parts[0].text == "yes");
  CHECK(Contains(ReadRefusal(*source, 2), "caption is empty"));

  const auto refusal = [](const std::string& path) {
    try {
      OpenSource(path);
    } catch (const Error& e) {
      CHECK(e.code() == ErrorCode::kData);
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(Contains(refusal(Temporary("none.tar", Tar({{"a.png", "x"}, {"b.wav", "y"}}))),
                 "of 2 keys in 1 shards"));
  CHECK(Contains(refusal(Temporary("cut.tar", Tar({{"a.png", "x"}}).substr(0, 700))), "truncated"));
  CHECK(Contains(refusal(Temporary("blank.jsonl", "\n \n")), "blank"));
}

TEST_CASE("Conversations by line") {
  Temporary("jsonl/img/a.png", "AAAA");
  const std::string line =
      R"({"images":["img/a.png"],"messages":[{"role":"user","content":"<image>x"},{"role":"assistant","content":"y"}]})";
  const std::string inline_image =
      R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD\n"}}]}]})";
  const std::string remote =
      R"({"images":["https://x/a.png"],"messages":[{"role":"user","content":"<image>"}]})";
  const std::string path = Temporary(
      "jsonl/d.jsonl", line + "\n\n  \r\n" + inline_image + "\n{bad\n" + remote + "\n" + line);
  const auto source = OpenSource(path);
  REQUIRE(source->size() == 5);
  CHECK(source->Read(0).key == path + ":1");
  CHECK(source->Read(0).items[0].Read() == "AAAA");
  CHECK(source->Read(0).messages[1].parts[0].text == "y");
  CHECK(source->Read(1).key == path + ":4");
  CHECK(source->Read(1).items[0].Read() == "ABC");
  CHECK(source->Read(1).items[0].Read(2) == "AB");
  CHECK(Contains(ReadRefusal(*source, 2), path + ":5"));
  CHECK(Contains(ReadRefusal(*source, 3), "not fetched"));
  CHECK(source->Read(4).key == path + ":7");

  std::filesystem::remove(std::filesystem::path(path).parent_path() / "img/a.png");
  CHECK(Contains(ReadRefusal(*source, 0), path + ":1"));
}

TEST_CASE("Base64") {
  const auto decode = [](const std::string& text) {
    std::string bytes;
    return DecodeBase64(text.data(), text.size(), &bytes) ? bytes : "refused";
  };
  CHECK(decode("") == "");
  CHECK(decode("Zg==") == "f");
  CHECK(decode("Zm8=") == "fo");
  CHECK(decode("Zm9v") == "foo");
  CHECK(decode("Zm9vYg") == "foob");
  CHECK(decode("Zm9v\nYmFy") == "foobar");
  CHECK(decode("Z") == "refused");
  CHECK(decode("Zg=") == "refused");
  CHECK(decode("Zg==Zg") == "refused");
  CHECK(decode("Zm9*") == "refused");
}

}  // namespace
}  // namespace omnitrain
