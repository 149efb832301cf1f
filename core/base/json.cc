#include "core/base/json.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

namespace omnitrain {

std::string ReadFile(const std::string& path, ErrorCode code) {
  std::ifstream in(path, std::ios::binary);
  if (!in) Fail(code, "{}: cannot open: {}", path, std::strerror(errno));
  std::ostringstream out;
  out << in.rdbuf();
  if (in.bad()) Fail(code, "{}: cannot read: {}", path, std::strerror(errno));
  return out.str();
}

Json ReadJsonFile(const std::string& path, ErrorCode code) {
  const std::string text = ReadFile(path, code);
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    Fail(code, "{}: not valid JSON: {}", path, e.what());
  }
}

void WriteFileAtomically(const std::string& path, const std::string& bytes, ErrorCode code) {
  const std::string temporary = path + ".part";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) Fail(code, "{}: cannot create: {}", temporary, std::strerror(errno));
  size_t done = 0;
  int error = 0;
  while (done < bytes.size() && error == 0) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n > 0) done += static_cast<size_t>(n);
    if (n < 0 && errno != EINTR) error = errno;
  }
  if (error == 0 && ::fsync(fd) != 0) error = errno;
  if (::close(fd) != 0 && error == 0) error = errno;
  if (error == 0 && std::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary.c_str());
    Fail(code, "{}: cannot write: {}", path, std::strerror(error));
  }
}

}  // namespace omnitrain
