#include "data/tokenizer/parity.h"

#include <fmt/ranges.h>

#include <cstdint>
#include <vector>

#include "core/base/json.h"
#include "data/tokenizer/tokenizer.h"

namespace omnitrain {

TokenizerParity CompareTokenizer(const std::string& tokenizer_json_path,
                                 const std::string& cases_path) {
  const Tokenizer tokenizer = Tokenizer::Load(tokenizer_json_path);
  const Json cases = ReadJsonFile(cases_path, ErrorCode::kData);
  TokenizerParity parity;
  const auto note = [&](const char* what, const Json& text, const std::string& want,
                        const std::string& got) {
    if (!parity.first_difference.empty()) return;
    parity.first_difference = fmt::format("case {} {}: {}: want {}, got {}", parity.num_cases - 1,
                                          text.dump(), what, want, got);
  };
  try {
    for (const Json& entry : cases) {
      ++parity.num_cases;
      const auto text = entry.at("text").get<std::string>();
      const auto want_ids = entry.at("ids").get<std::vector<int32_t>>();
      const auto want_text = entry.at("decoded").get<std::string>();
      const std::vector<int32_t> ids = tokenizer.Encode(text);
      const std::string decoded = tokenizer.Decode(want_ids);
      if (ids == want_ids) {
        ++parity.num_exact_encodings;
      } else {
        note("encoding", entry.at("text"), fmt::format("{}", want_ids), fmt::format("{}", ids));
      }
      if (decoded == want_text) {
        ++parity.num_exact_decodings;
      } else {
        note("decoding", entry.at("text"), Json(want_text).dump(), Json(decoded).dump());
      }
    }
  } catch (const Json::exception& e) {
    Fail(ErrorCode::kData, "{}: case {}: {}", cases_path, parity.num_cases - 1, e.what());
  }
  return parity;
}

}  // namespace omnitrain
