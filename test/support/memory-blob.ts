import { OcifsError } from "../../src/base/errors.js";
import type { BlobSource, FetchOptions } from "../../src/blob/blob-source.js";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import type { TransferCounts } from "../../src/registry/transfer-stats.js";

/** A blob in memory that notes every request, and can be made to wait, to fail, or to end early. */
export class MemoryBlob implements BlobSource {
  readonly digest: Digest;
  readonly description = "blob in memory";
  rangesSupported = true;
  readonly requests: { offset: number; length: number }[] = [];
  delivered = 0;
  /** Called before each chunk; a rejection ends the transfer. */
  beforeChunk: (position: number, options: FetchOptions) => Promise<void> = async () => undefined;
  chunkBytes = 16 << 10;

  constructor(
    readonly bytes: Uint8Array,
    digest?: Digest,
  ) {
    this.digest = digest ?? digestOfBytes(bytes);
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  stats(): TransferCounts {
    return { requests: this.requests.length, bytes: this.delivered, retries: 0 };
  }

  async *fetchRange(offset: number, length: number, options: FetchOptions = {}): AsyncIterable<Uint8Array> {
    this.requests.push({ offset, length });
    for (let at = offset; at < offset + length; ) {
      await this.beforeChunk(at, options);
      if (options.signal?.aborted) throw new OcifsError("aborted", "transfer: cancelled");
      const chunk = this.bytes.slice(at, Math.min(at + this.chunkBytes, offset + length));
      at += chunk.length;
      this.delivered += chunk.length;
      yield chunk;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing is open.
  }
}

/** A promise with its handles: for tests that decide when something happens. */
export function deferred(): { promise: Promise<void>; resolve: () => void; reject: (error: unknown) => void } {
  let resolve: () => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
