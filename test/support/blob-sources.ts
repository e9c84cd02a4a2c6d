import type { BlobSource } from "../../src/blob/blob-source.js";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";

/** A blob held in memory, delivered in chunks of `chunkBytes`. A `digest` that does not fit makes it a damaged blob. */
export function memoryBlob(
  bytes: Uint8Array,
  options: { chunkBytes?: number; digest?: Digest; sizeBytes?: number } = {},
): BlobSource {
  const chunkBytes = options.chunkBytes ?? 64 << 10;
  return {
    digest: options.digest ?? digestOfBytes(bytes),
    sizeBytes: options.sizeBytes ?? bytes.length,
    description: "blob in memory",
    rangesSupported: true,
    stats: () => ({ requests: 0, bytes: 0, retries: 0 }),
    async *fetchRange(offset, length, fetchOptions) {
      const end = Math.min(bytes.length, offset + length);
      for (let at = offset; at < end; at += chunkBytes) {
        fetchOptions?.signal?.throwIfAborted();
        yield bytes.subarray(at, Math.min(end, at + chunkBytes));
      }
    },
    async [Symbol.asyncDispose]() {
      await Promise.resolve();
    },
  };
}
