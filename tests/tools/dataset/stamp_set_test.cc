#include "tools/dataset/stamp_set.h"

#include <cstdlib>
#include <filesystem>
#include <set>

#include "core/base/json.h"
#include "data/source/source.h"
#include "tests/support/catch.h"
#include "tools/dataset/stamp_image.h"

namespace omnitrain {
namespace {

TEST_CASE("Captions that differ in articles, case and punctuation are one") {
  CHECK(NormalizeCaption("A great, Blue heron.") == "great blue heron");
  CHECK(NormalizeCaption("the DOG") == NormalizeCaption("Dog."));
  CHECK(NormalizeCaption("A") == NormalizeCaption("a."));
  CHECK(NormalizeCaption("...") == "...");
}

TEST_CASE(
    "A set from a folder: split by caption, mirrored views with their stamp, same bytes twice") {
  const std::string root = std::string(std::getenv("TEST_TMPDIR")) + "/stamps";
  StampSetOptions options;
  options.from = root + "/in";
  options.held_out_percent = 30;
  options.augment = 2;
  options.size = 32;
  options.samples_per_shard = 50;
  std::filesystem::create_directories(options.from + "/animals");
  Stamp stamp;
  stamp.height = 6;
  stamp.width = 10;
  stamp.rgba.assign(240, '\x7f');
  const std::string png = EncodePng(PlaceStamp(stamp, 20, {}));
  const auto add = [&](const std::string& name, const std::string& text) {
    WriteFileAtomically(options.from + "/animals/" + name + ".png", png, ErrorCode::kData);
    if (text.empty()) return;
    WriteFileAtomically(options.from + "/animals/" + name + ".txt", text + "\nfr.utf8=Non\n",
                        ErrorCode::kData);
  };
  for (int i = 0; i < 60; ++i) {
    add(fmt::format("s{}", i), fmt::format("A beast {}.", i / 2));
  }
  add("s0_mirror", "");
  add("nameless", "");

  std::vector<std::string> first;
  for (const char* out : {"/a", "/b"}) {
    options.out = root + out;
    const StampSetCounts n = WriteStampSet(options);
    CHECK(n.train_stamps + n.held_out_stamps == 61);
    CHECK(n.train_captions + n.held_out_captions == 30);
    CHECK(n.held_out_captions >= 3);
    CHECK(n.train_samples == 3 * n.train_stamps);
    CHECK(n.held_out_samples == n.held_out_stamps);
    CHECK(n.unreadable == 0);

    std::set<std::string> sides[2];
    int64_t num_samples = 0;
    for (const int side : {0, 1}) {
      const auto source = OpenSource(options.out + (side == 0 ? "/train" : "/held-out"));
      num_samples += source->size();
      for (int64_t i = 0; i < source->size(); ++i) {
        const RawSample sample = source->Read(i);
        sides[side].insert(sample.messages[1].parts[0].text);
        if (std::string(out) == "/a") {
          first.push_back(sample.items[0].Read());
        } else {
          REQUIRE(sample.items[0].Read() ==
                  first[static_cast<size_t>(num_samples - source->size() + i)]);
        }
      }
    }
    CHECK(num_samples == n.train_samples + n.held_out_samples);
    CHECK(sides[0].size() + sides[1].size() == 30);
    for (const std::string& caption : sides[1]) CHECK(sides[0].count(caption) == 0);
    CHECK((sides[0].count("Animals: A beast 7.") + sides[1].count("Animals: A beast 7.")) == 1);
  }
}

TEST_CASE("A missing folder is named") {
  StampSetOptions options;
  options.from = "/nonexistent/stamps";
  CHECK_THROWS_AS(FindStamps(options), Error);
}

}  // namespace
}  // namespace omnitrain
