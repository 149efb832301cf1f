#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace omnitrain {

struct StampSetOptions {
  std::string from = "/usr/share/tuxpaint/stamps";  // Debian's tuxpaint-stamps-default
  std::string out;
  int size = 96;                 // sides of the pictures, pixels
  double held_out_percent = 12;  // of the captions
  int augment = 3;               // further pictures of each training stamp
  uint64_t seed = 1;
  int samples_per_shard = 1000;
};

/// One picture with an English caption.
struct StampEntry {
  std::string path;    // relative to the folder, without ".png"
  std::string answer;  // "Animals: A great blue heron."
  bool is_held_out = false;
};

struct StampSetCounts {
  int64_t train_stamps = 0, train_captions = 0, train_samples = 0;
  int64_t held_out_stamps = 0, held_out_captions = 0, held_out_samples = 0;
  int64_t unreadable = 0;  // pictures that do not decode
};

/// What decides the side of a split: words in lower case without punctuation and a leading article,
/// so that "The dog." and "A dog" stay together.
std::string NormalizeCaption(const std::string& caption);

/// All pictures with a caption: the first line of NAME.txt; NAME_mirror and NAME_flip are other
/// views of NAME and share its caption. By path. Whether one is held out depends on its caption and
/// the seed alone: pictures with the same caption are on one side. Errors: kSpec when the folder is
/// missing or holds none.
std::vector<StampEntry> FindStamps(const StampSetOptions& options);

/// Writes OUT/train/ and OUT/held-out/ (WebDataset shards of `.png` and `.txt`) and
/// OUT/captions.txt, the training answers, for a tokenizer. The first picture of a stamp is centred
/// on white; the further ones of a training stamp have a light background, a size and a place drawn
/// from its name. The same options give the same bytes.
StampSetCounts WriteStampSet(const StampSetOptions& options);

}  // namespace omnitrain
