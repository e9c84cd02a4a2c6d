// Status: the result of every native core function that can fail. Core files know no N-API; wrappers turn a Status into
// an OcifsError. `err` is an errno, `code` the OcifsErrorCode it becomes, `message` one sentence for a person.
#pragma once
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace ocifs {

struct [[nodiscard]] Status {
  int err = 0;
  const char* code = "";  // static storage
  std::string message;

  bool ok() const { return err == 0; }
  static Status Ok() { return {}; }
  static Status Corrupt(std::string m) { return {EIO, "corrupt", std::move(m)}; }
  static Status Mismatch(std::string m) { return {EIO, "mismatch", std::move(m)}; }
  static Status Unsupported(std::string m) { return {EOPNOTSUPP, "unsupported", std::move(m)}; }
  static Status Limit(std::string m) { return {EIO, "limit", std::move(m)}; }
  static Status NotFound(std::string m) { return {ENOENT, "not-found", std::move(m)}; }
  static Status Usage(std::string m) { return {EINVAL, "usage", std::move(m)}; }
  // From errno; ENOSPC and EDQUOT become "no-space", EBUSY "busy", everything else "io".
  static Status Errno(int e, const std::string& what) {
    const char* c = e == ENOSPC || e == EDQUOT ? "no-space" : e == EBUSY ? "busy" : "io";
    return {e, c, what + ": " + std::strerror(e)};
  }
};

}  // namespace ocifs
