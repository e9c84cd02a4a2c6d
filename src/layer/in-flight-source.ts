import { OcifsError } from "../base/errors.js";
import type { BlobSource, FetchOptions } from "../blob/blob-source.js";
import { checkRange } from "../blob/range.js";
import type { Digest } from "../oci/digest.js";
import { LinkedSignal } from "../registry/abort.js";
import type { TransferCounts } from "../registry/transfer-stats.js";
import type { InFlightStream } from "./in-flight-stream.js";

/**
 * A stream as a BlobSource: what reads a blob front to back (the index builder, a client of the proxy) fills the cache by
 * doing so, and shares the download with everyone else. Does not take over the stream.
 */
export class InFlightSource implements BlobSource {
  readonly rangesSupported = true;
  readonly #stream: InFlightStream;
  readonly #lifetime = new AbortController();

  constructor(stream: InFlightStream) {
    this.#stream = stream;
  }

  get digest(): Digest {
    return this.#stream.source.digest;
  }

  get sizeBytes(): number {
    return this.#stream.sizeBytes;
  }

  get description(): string {
    return this.#stream.source.description;
  }

  /** Of the source behind the stream: what came from the cache is not in it. */
  stats(): TransferCounts {
    return this.#stream.source.stats();
  }

  async *fetchRange(offset: number, length: number, options: FetchOptions = {}): AsyncIterable<Uint8Array> {
    checkRange(offset, length, this.sizeBytes, this.description);
    using linked = new LinkedSignal(options.signal, this.#lifetime.signal);
    if (linked.signal.aborted) throw new OcifsError("aborted", `${this.description}: cancelled`);
    if (length === 0) return;
    yield* this.#stream.follow({ from: offset, to: offset + length, signal: linked.signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new OcifsError("aborted", `${this.description}: it is closed`));
  }
}
