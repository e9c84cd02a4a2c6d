// One request of the kernel to its answer: the wire protocol on one side, a FileSystem on the other.
// Every operation and errno: docs/SEMANTICS.md.
#pragma once
#include <string_view>

#include "protocol.h"
#include "reads.h"

namespace ocifs::fuse {

class Requests {
 public:
  Requests(const FileSystem& files, Counters& counters, Reads& reads) : files_(files), counters_(counters), reads_(reads) {}

  // A request as read from `fd`, which gets the answer. `out`: room for the largest answer, kMaxReadBytes.
  void Answer(int fd, const uint8_t* packet, size_t size, uint8_t* out);

 private:
  struct Request;

  void Init(const Request& r);
  void Lookup(const Request& r);
  void Getattr(const Request& r);
  void Readlink(const Request& r);
  void Read(const Request& r);
  void Readdir(const Request& r, bool plus);
  void Statfs(const Request& r);
  void Getxattr(const Request& r);
  void Listxattr(const Request& r);
  void Value(const Request& r, uint32_t room, const std::string& value);
  void Ok(const Request& r, const void* data, size_t size);
  void Error(const Request& r, int err);

  const FileSystem& files_;
  Counters& counters_;
  Reads& reads_;
};

}  // namespace ocifs::fuse
