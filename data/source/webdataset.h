#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/source/source.h"

namespace omnitrain {

/// WebDataset: tar shards whose neighbouring files with the same key (the path up to the first dot
/// of its last part) form a sample.
/// - `key.txt` + one `key.png|jpg|jpeg|webp`: a caption; other files of the key are passed over.
/// - `key.json` without `key.txt`: a conversation as ParseChatSample reads it, with images
///   `key.0.png`, `key.1.jpg`, ... (or one `key.png`). It may list them by name (`0.png` or
///   `key.0.png`), or leave the list out: its image tags then take them by number.
/// A key that is neither is a sample that Read refuses. Headers of the shards are read at once, by
/// several threads. Errors: kData for a broken tar, or when no key of the source is a sample.
std::unique_ptr<Source> OpenWebDataset(const std::string& name,
                                       const std::vector<std::string>& shards);

}  // namespace omnitrain
