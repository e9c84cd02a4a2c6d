import { OcifsError } from "../base/errors.js";
import type { Descriptor } from "../oci/descriptor.js";
import type { Digest } from "../oci/digest.js";
import type { TransferCounts } from "../registry/transfer-stats.js";
import type { BlobSource, FetchOptions } from "./blob-source.js";
import { checkRange } from "./range.js";

const nothing: TransferCounts = { requests: 0, bytes: 0, retries: 0 };

/**
 * A blob whose source is opened at the first fetch: a mount that finds everything in the cache needs no HTTP client, and
 * opening one is a good part of what a mount takes. A failed opening fails the fetch and is tried again by the next one.
 */
export class DeferredBlobSource implements BlobSource {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly description: string;
  readonly #open: () => Promise<BlobSource>;
  #opening: Promise<BlobSource> | undefined;
  #source: BlobSource | undefined;
  #closed = false;

  constructor(descriptor: Descriptor, description: string, open: () => Promise<BlobSource>) {
    this.digest = descriptor.digest;
    this.sizeBytes = descriptor.sizeBytes;
    this.description = description;
    this.#open = open;
  }

  get rangesSupported(): boolean {
    return this.#source?.rangesSupported ?? true;
  }

  stats(): TransferCounts {
    return this.#source?.stats() ?? nothing;
  }

  async *fetchRange(offset: number, length: number, options: FetchOptions = {}): AsyncIterable<Uint8Array> {
    checkRange(offset, length, this.sizeBytes, this.description);
    yield* (await this.#opened()).fetchRange(offset, length, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    // What could not be opened has nothing to close; whoever fetched was told.
    await this.#opening?.catch(() => undefined);
    await this.#source?.[Symbol.asyncDispose]();
  }

  async #opened(): Promise<BlobSource> {
    if (this.#closed) throw new OcifsError("aborted", `${this.description}: it is closed`);
    this.#opening ??= this.#openOnce();
    return await this.#opening;
  }

  async #openOnce(): Promise<BlobSource> {
    try {
      this.#source = await this.#open();
      return this.#source;
    } catch (error) {
      this.#opening = undefined;
      throw error;
    }
  }
}
