#pragma once

#include <string>

namespace omnitrain {

/// How a tokenizer compares with recorded encodings and decodings.
struct TokenizerParity {
  int num_cases = 0;
  int num_exact_encodings = 0;
  int num_exact_decodings = 0;
  std::string
      first_difference;  // empty when all are exact; else one line: the case, wanted and got

  bool passed() const {
    return num_cases > 0 && num_exact_encodings == num_cases && num_exact_decodings == num_cases;
  }
};

/// `cases_path` is a JSON list of {text, ids, decoded}, made by the reference for this tokenizer.
/// Errors: kData when a file cannot be read.
TokenizerParity CompareTokenizer(const std::string& tokenizer_json_path,
                                 const std::string& cases_path);

}  // namespace omnitrain
