#include "data/source/paths.h"

#include <cstdlib>
#include <filesystem>

#include "core/base/json.h"
#include "tests/support/catch.h"

namespace omnitrain {
namespace {

using Strings = std::vector<std::string>;

TEST_CASE("Braces expand as in a shell") {
  CHECK(ExpandBraces("a") == Strings{"a"});
  CHECK(ExpandBraces("s-{008..011}.tar") ==
        Strings{"s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"});
  CHECK(ExpandBraces("{a,b}{1..2}") == Strings{"a1", "a2", "b1", "b2"});
  CHECK(ExpandBraces("x{a,b{1,2}}y") == Strings{"xay", "xb1y", "xb2y"});
  CHECK_THROWS_AS(ExpandBraces("a{1..2"), Error);
  CHECK_THROWS_AS(ExpandBraces("a{5..2}"), Error);
}

TEST_CASE("Folders, globs, lists; what is missing is a fault of the spec") {
  const std::string folder = std::string(std::getenv("TEST_TMPDIR")) + "/paths";
  std::filesystem::create_directories(folder + "/empty");
  for (const char* name : {"b.tar", "a.tar", "c.txt", ".hidden.tar"}) {
    WriteFileAtomically(folder + "/" + name, "", ErrorCode::kData);
  }
  const Strings both = {folder + "/a.tar", folder + "/b.tar"};
  CHECK(ExpandPaths(folder, {".tar"}) == both);
  CHECK(ExpandPaths(folder + "/*.tar", {".tar"}) == both);
  CHECK(ExpandPaths(folder + "/{b,a}.tar", {".tar"}) == Strings{both[1], both[0]});
  CHECK(ExpandPaths(folder + "/c.txt", {".tar"}) == Strings{folder + "/c.txt"});
  for (const char* missing : {"/none", "/*.none", "/empty", "/{a,z}.tar"}) {
    try {
      ExpandPaths(folder + missing, {".tar"});
      FAIL(missing);
    } catch (const Error& e) {
      CHECK(e.code() == ErrorCode::kSpec);
    }
  }
}

}  // namespace
}  // namespace omnitrain
