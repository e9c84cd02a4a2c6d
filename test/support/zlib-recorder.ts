import assert from "node:assert/strict";
import { writeSync } from "node:fs";
import { createGunzip, gunzipSync } from "node:zlib";
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
  const inputs: Buffer[] = [];
  const waiting: Buffer[] = [];
  let failure: Error | undefined;
  let compressed = 0;
  let uncompressed = 0;
  gunzip.on("data", (chunk: Buffer) => waiting.push(chunk));
  gunzip.on("error", (error) => {
    failure = error;
  });
  const broken = () => new OcifsError("corrupt", `gzip: ${failure?.message ?? "broken"}`, { cause: failure });
  return {
    async step(input, output) {
      if (input.length > 0) {
        compressed += input.length;
        inputs.push(Buffer.from(input));
        await new Promise<void>((resolve) => {
          const done = () => {
            gunzip.off("close", done);
            resolve();
          };
          // After an error the stream closes, without calling back for the write.
          gunzip.once("close", done);
          gunzip.write(Buffer.from(input), done);
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
      try {
        assert.equal(gunzipSync(Buffer.concat(inputs)).length, uncompressed);
      } catch (cause) {
        throw new OcifsError("corrupt", "gzip: ends early", { cause });
      }
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
