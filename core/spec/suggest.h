#pragma once

#include <string>
#include <vector>

namespace omnitrain {

/// Single-letter insertions, removals, changes and swaps of neighbours that turn `a` into `b`.
/// Source: Damerau 1964, in the optimal string alignment form.
int EditDistance(const std::string& a, const std::string& b);

/// The candidate that was most likely meant by `word`, or "" if none comes near: few edits, or an
/// abbreviation by initials (learning_rate: lr), or some of the same words (grad_clip: clip).
std::string Nearest(const std::string& word, const std::vector<std::string>& candidates);

/// The same for a dotted path that is not a key: first among the keys of the same group, then keys
/// of that name anywhere (`seed`: run.seed).
std::string NearestKey(const std::string& path, const std::vector<std::string>& keys);

}  // namespace omnitrain
