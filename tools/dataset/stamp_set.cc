#include "tools/dataset/stamp_set.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "core/base/check.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/rng.h"
#include "tools/dataset/stamp_image.h"
#include "tools/dataset/tar_writer.h"

namespace omnitrain {
namespace {

namespace fs = std::filesystem;

std::string WithoutView(std::string path) {
  for (bool is_view = true; is_view;) {
    is_view = false;
    for (const std::string suffix : {"_mirror", "_flip"}) {
      if (path.size() > suffix.size() &&
          path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0) {
        path.resize(path.size() - suffix.size());
        is_view = true;
      }
    }
  }
  return path;
}

std::string FirstLine(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  const auto is_blank = [](char c) { return c == ' ' || c == '\r' || c == '\t'; };
  while (!line.empty() && is_blank(line.back())) line.pop_back();
  size_t begin = 0;
  while (begin < line.size() && is_blank(line[begin])) ++begin;
  return line.substr(begin);
}

// "Animals" of "animals/birds/heron".
std::string KindOf(const std::string& path) {
  std::string kind = path.substr(0, path.find('/'));
  if (kind == "naturalforces") kind = "natural forces";
  kind[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(kind[0])));
  return kind;
}

// A sample's key holds no dot, and no slash.
std::string KeyOf(const std::string& path) {
  std::string key = path;
  for (char& c : key) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-') c = '_';
  }
  return key.size() <= 80 ? key : key.substr(key.size() - 80);
}

// Views 1, 2, ...; 0 is the stamp centred on white.
Placement View(const StampSetOptions& options, const std::string& path, int view) {
  Placement placement;
  if (view == 0) return placement;
  const uint64_t stream = StreamId(path.c_str());
  auto uniform = [&, draw = uint64_t{0}]() mutable {
    return RandomUniform(options.seed, stream, static_cast<uint64_t>(view) * 8 + draw++);
  };
  for (uint8_t& channel : placement.background) {
    channel = static_cast<uint8_t>(140 + uniform() * 116);  // light: most stamps have dark outlines
  }
  placement.scale = 0.65 + 0.35 * uniform();
  placement.shift_x = uniform();
  placement.shift_y = uniform();
  return placement;
}

class ShardWriter {
 public:
  ShardWriter(std::string folder, int samples_per_shard)
      : folder_(std::move(folder)), samples_per_shard_(samples_per_shard) {
    fs::create_directories(folder_);
    // Shards of an earlier, larger set would stay in the folder and be read.
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().extension() == ".tar") fs::remove(entry.path());
    }
  }

  void Add(const std::string& key, const std::string& png, const std::string& text) {
    tar_.Add(key + ".png", png);
    tar_.Add(key + ".txt", text + "\n");
    ++num_samples_;
    if (++in_shard_ == samples_per_shard_) Flush();
  }

  void Flush() {
    if (in_shard_ == 0) return;
    WriteFileAtomically(fmt::format("{}/stamps-{:06}.tar", folder_, num_shards_++), tar_.Finish(),
                        ErrorCode::kData);
    in_shard_ = 0;
  }

  int64_t num_samples() const { return num_samples_; }

 private:
  std::string folder_;
  int samples_per_shard_;
  TarWriter tar_;
  int in_shard_ = 0;
  int num_shards_ = 0;
  int64_t num_samples_ = 0;
};

}  // namespace

std::string NormalizeCaption(const std::string& caption) {
  std::string out;
  std::string word, article;
  const auto finish_word = [&] {
    if (out.empty() && (word == "a" || word == "an" || word == "the")) {
      article = word;
    } else if (!word.empty()) {
      out += (out.empty() ? "" : " ") + word;
    }
    word.clear();
  };
  for (const char c : caption) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) || u >= 0x80) {
      word += static_cast<char>(std::tolower(u));
    } else if (c != '\'') {
      finish_word();
    }
  }
  finish_word();
  if (!out.empty()) return out;
  return article.empty() ? caption : article;  // the letter A; a caption without any letter
}

std::vector<StampEntry> FindStamps(const StampSetOptions& options) {
  OT_REQUIRE(fs::is_directory(options.from), ErrorCode::kSpec,
             "{}: no such folder: install tuxpaint-stamps-default", options.from);
  std::vector<std::string> paths;
  for (const auto& file : fs::recursive_directory_iterator(options.from)) {
    if (file.path().extension() != ".png") continue;
    paths.push_back(
        file.path().lexically_relative(options.from).replace_extension().generic_string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<StampEntry> stamps;
  for (const std::string& path : paths) {
    std::string caption = FirstLine(fs::path(options.from) / (path + ".txt"));
    if (caption.empty()) {
      caption = FirstLine(fs::path(options.from) / (WithoutView(path) + ".txt"));
    }
    if (caption.empty()) continue;
    const double draw = RandomUniform(options.seed, StreamId(NormalizeCaption(caption).c_str()), 0);
    stamps.push_back(
        {path, KindOf(path) + ": " + caption, draw * 100.0 < options.held_out_percent});
  }
  OT_REQUIRE(!stamps.empty(), ErrorCode::kSpec, "{}: no picture with a caption", options.from);
  return stamps;
}

StampSetCounts WriteStampSet(const StampSetOptions& options) {
  const auto stamps = FindStamps(options);
  ShardWriter train(options.out + "/train", options.samples_per_shard);
  ShardWriter held_out(options.out + "/held-out", options.samples_per_shard);
  StampSetCounts counts;
  std::set<std::string> train_captions, held_out_captions;
  std::string captions_text;
  for (const StampEntry& entry : stamps) {
    Stamp stamp;
    try {
      stamp = ReadStamp(options.from + "/" + entry.path + ".png");
    } catch (const Error& e) {
      Log("data", "skipped: {}", e.what());
      ++counts.unreadable;
      continue;
    }
    ShardWriter& shards = entry.is_held_out ? held_out : train;
    const int num_views = entry.is_held_out ? 1 : 1 + options.augment;
    for (int view = 0; view < num_views; ++view) {
      const Image picture = PlaceStamp(stamp, options.size, View(options, entry.path, view));
      shards.Add(fmt::format("{}-v{}", KeyOf(entry.path), view), EncodePng(picture), entry.answer);
    }
    (entry.is_held_out ? counts.held_out_stamps : counts.train_stamps) += 1;
    (entry.is_held_out ? held_out_captions : train_captions).insert(entry.answer);
    if (!entry.is_held_out) captions_text += entry.answer + "\n";
  }
  train.Flush();
  held_out.Flush();
  WriteFileAtomically(options.out + "/captions.txt", captions_text, ErrorCode::kData);
  counts.train_captions = static_cast<int64_t>(train_captions.size());
  counts.held_out_captions = static_cast<int64_t>(held_out_captions.size());
  counts.train_samples = train.num_samples();
  counts.held_out_samples = held_out.num_samples();
  return counts;
}

}  // namespace omnitrain
