#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/source/random_access_file.h"

namespace omnitrain {

/// A regular file inside a tar.
struct TarEntry {
  std::string path;    // without a leading "./"
  int64_t offset = 0;  // of its bytes in the tar
  int64_t size = 0;
};

/// Lists the regular files of a tar in order: ustar, GNU (long names, base-256 sizes) and pax (path
/// and size). Folders, links and devices are passed over. Reads headers only.
/// Errors: kData with path and offset for a truncated tar (a missing end-of-archive block
/// included, since a cut between two files shows nowhere else), a wrong header checksum, a sparse
/// file, or a compressed tar, which has no random access.
/// Source: POSIX.1-2001 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
std::vector<TarEntry> ReadTarIndex(const RandomAccessFile& file);

}  // namespace omnitrain
