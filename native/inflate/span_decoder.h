// Decodes one span of a gzip blob: from a checkpoint to the next, with ISA-L (zlib where ISA-L is not available).
// Bounded memory whatever the span: output goes to the sink in pieces. Everything read is hostile input.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

#include "../base/status.h"

namespace ocifs::inflate {

constexpr size_t kWindowBytes = 32768;

struct SpanInput {
  int fd = -1;             // the compressed blob (sparse file; [begin, end) is present), read with pread
  uint64_t begin = 0;      // first compressed byte: `in - (bits ? 1 : 0)` of the checkpoint
  uint64_t end = 0;        // end of the compressed bytes this span may use (blob size for the last span)
  uint8_t bits = 0;        // 0..7: unused high bits of byte `begin` that belong to this span
  bool at_header = false;  // byte `begin` is the first of a gzip header, to be parsed (span 0); bits and window are ignored
  const uint8_t* window = nullptr;  // the 32768 bytes before the span, oldest first; null when the span starts a member
  uint64_t out_size = 0;   // uncompressed bytes wanted: exactly this many are produced or the call fails
  // The window of the next checkpoint, or null. When given, and the next checkpoint does not start a gzip member, the
  // last min(32768, window + out) bytes must be equal to it ("mismatch" otherwise): ties zinfo and blob together.
  const uint8_t* next_window = nullptr;
  // Last span: the stream must end here, trailer included. Zero padding and foreign bytes behind it are passed over.
  // CRC-32 and length are checked of every member that begins and ends inside a span, last or not.
  bool last = false;
};

// Gets consecutive pieces of the output. A failing Status stops the decode and is returned.
using Sink = std::function<Status(const uint8_t* data, size_t size)>;

// `corrupt`: the bytes are no valid gzip, or end too early. `mismatch`: they are, but not what the checkpoints say.
// A failing pread gives its errno. Pieces given to the sink before a failure must be thrown away.
Status DecodeSpan(const SpanInput& in, const Sink& sink);
// The same through zlib: fallback, and the reference that tests compare with.
Status DecodeSpanZlib(const SpanInput& in, const Sink& sink);

}  // namespace ocifs::inflate
