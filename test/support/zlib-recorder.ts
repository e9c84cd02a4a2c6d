import { writeSync } from "node:fs";
import { createGunzip } from "node:zlib";
import { OcifsError } from "../../src/base/errors.js";
import type { GzipRecorder } from "../../src/index/recorder.js";
import { SpanHasher } from "../../src/index/span-hasher.js";

/**
 * Stands in for the native recorder where a test is about what happens around it: inflates rightly, but its zinfo is a header only and
 * its spans are simply `spanSizeBytes` long.
 */
export function openZlibRecorder(options: { zinfoFd: number; spanSizeBytes: number }): GzipRecorder {
  const gunzip = createGunzip();
  const spans = new SpanHasher(options.spanSizeBytes);
  let waiting: Buffer[] = [];
  let failure: Error | undefined;
  let compressed = 0;
  let uncompressed = 0;
  gunzip.on("data", (chunk: Buffer) => waiting.push(chunk));
  gunzip.on("error", (error) => {
    failure = error;
  });
  const broken = () => new OcifsError("corrupt", `gzip: ${failure?.message ?? "ends early"}`, { cause: failure });
  return {
    async step(input, output) {
      if (input.length > 0) {
        compressed += input.length;
        // A failed write calls back too.
        await new Promise<void>((resolve) => {
          gunzip.write(Buffer.from(input), () => resolve());
        });
      }
      if (failure !== undefined) throw broken();
      let produced = 0;
      for (let chunk = waiting.shift(); chunk !== undefined; chunk = waiting.shift()) {
        const used = chunk.copy(output, produced);
        produced += used;
        if (used < chunk.length) {
          waiting.unshift(chunk.subarray(used));
          break;
        }
      }
      spans.update(output.subarray(0, produced));
      uncompressed += produced;
      return { consumed: input.length, produced };
    },
    finish() {
      if (failure !== undefined || waiting.length > 0) throw broken();
      waiting = [];
      writeSync(options.zinfoFd, Buffer.alloc(12), 0, 12, 0);
      const digests = spans.finish();
      return {
        compressedSizeBytes: compressed,
        uncompressedSizeBytes: uncompressed,
        checkpointCount: digests.length,
        spanDigests: Buffer.from(digests.join(""), "hex"),
        trailingBytes: 0,
      };
    },
    close() {
      gunzip.destroy();
    },
  };
}
