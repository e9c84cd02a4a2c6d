#include "zstd_stream.h"

#include <zstd.h>
#include <zstd_errors.h>

#include <new>
#include <string>

namespace ocifs::inflate {

namespace {

class LibzstdStream final : public ZstdStream {
 public:
  LibzstdStream() : stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, kZstdWindowLogMax);
  }
  ~LibzstdStream() override { ZSTD_freeDStream(stream_); }
  LibzstdStream(const LibzstdStream&) = delete;
  LibzstdStream& operator=(const LibzstdStream&) = delete;

  Status Step(const uint8_t* in, size_t in_size, uint8_t* out, size_t out_size, size_t* consumed, size_t* produced) override {
    ZSTD_inBuffer input{in, in_size, 0};
    ZSTD_outBuffer output{out, out_size, 0};
    *consumed = *produced = 0;
    if (failed_) return Status::Usage("zstd: used after a failure");
    while (output.pos < output.size) {
      const size_t in_before = input.pos, out_before = output.pos;
      // Between two frames a call without input would begin a frame that may never come.
      if (input.pos == input.size && frame_ended_) break;
      const size_t left = ZSTD_decompressStream(stream_, &output, &input);
      taken_ += input.pos - in_before;
      if (ZSTD_isError(left)) {
        failed_ = true;
        return Failure(left);
      }
      frame_ended_ = left == 0;
      any_frame_ = any_frame_ || frame_ended_;
      if (input.pos == in_before && output.pos == out_before) break;
    }
    *consumed = input.pos;
    *produced = output.pos;
    return Status::Ok();
  }

  Status Finish() const override {
    if (failed_) return Status::Usage("zstd: used after a failure");
    if (frame_ended_ && any_frame_) return Status::Ok();
    return Status::Corrupt("zstd: the blob ends inside a frame, at compressed byte " + std::to_string(taken_));
  }

 private:
  Status Failure(size_t result) const {
    const std::string message = "zstd at compressed byte " + std::to_string(taken_) + ": " + ZSTD_getErrorName(result);
    switch (ZSTD_getErrorCode(result)) {
      case ZSTD_error_frameParameter_windowTooLarge:
        return Status::Limit(message + "; a window of more than 128 MiB is refused");
      case ZSTD_error_memory_allocation:
        return Status::Limit(message);
      case ZSTD_error_checksum_wrong:
        return Status::Mismatch(message);
      default:
        return Status::Corrupt(message);
    }
  }

  ZSTD_DStream* const stream_;
  uint64_t taken_ = 0;
  bool frame_ended_ = true, any_frame_ = false, failed_ = false;
};

}  // namespace

std::unique_ptr<ZstdStream> ZstdStream::Create() { return std::make_unique<LibzstdStream>(); }

}  // namespace ocifs::inflate
