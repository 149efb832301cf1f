#pragma once

#include <string>
#include <vector>

namespace omnitrain {

/// Expands the braces of a shell: `a-{000..012}.tar` (the width of the first number is kept) and
/// `{x,y}`, several and nested ones included. Errors: kSpec for an unmatched brace or a range that
/// runs backwards.
std::vector<std::string> ExpandBraces(const std::string& pattern);

/// The files that a source's path names, in the order of the data: braces as written, the matches
/// of a glob and the files of a folder that end in one of `suffixes` by name.
/// Errors: kSpec when a path does not exist, a glob matches nothing or a folder holds no such file.
std::vector<std::string> ExpandPaths(const std::string& path,
                                     const std::vector<std::string>& suffixes);

}  // namespace omnitrain
