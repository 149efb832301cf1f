#include "data/tokenizer/pre_tokenizer.h"

namespace omnitrain {

PreTokenizer::PreTokenizer(const std::vector<SplitRule>& rules, const std::string& where) {
  for (const SplitRule& rule : rules) {
    Stage stage{rule.kind, {}};
    if (rule.kind != SplitRule::Kind::kPrefixSpace) stage.regex.emplace_back(rule.pattern, where);
    stages_.push_back(std::move(stage));
  }
  // Both patterns match everywhere, so that it is the same whether gaps are kept.
  if (rules.size() == 1 && rules[0].pattern == kQwenPattern) scanner_digits_ = 1;
  if (rules.size() == 1 && rules[0].pattern == kLlamaPattern) scanner_digits_ = 3;
}

}  // namespace omnitrain
