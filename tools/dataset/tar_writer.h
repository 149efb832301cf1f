#pragma once

#include <string>
#include <string_view>

namespace omnitrain {

/// A tar in memory (ustar), the same bytes for the same files: no times, no owners.
class TarWriter {
 public:
  /// Requires: a path of at most 100 bytes.
  void Add(std::string_view path, std::string_view bytes);

  /// The finished archive; the writer is empty again.
  std::string Finish();

 private:
  std::string out_;
};

}  // namespace omnitrain
