import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Descriptor } from "../oci/descriptor.js";
import type { Digest } from "../oci/digest.js";
import { LinkedSignal } from "../registry/abort.js";
import type { BlobFetcher, BlobLocation } from "../registry/blob-fetcher.js";
import type { RegistryClient } from "../registry/client.js";
import type { TransferCounts } from "../registry/transfer-stats.js";
import type { BlobSource, FetchOptions } from "./blob-source.js";
import { checkRange } from "./range.js";

/** Opens a blob of a repository. Nothing is requested yet, so a blob that is missing shows at the first fetch. */
export function openRemoteBlob(
  client: RegistryClient,
  repository: string,
  descriptor: Pick<Descriptor, "digest" | "sizeBytes">,
  authorization?: BlobLocation["authorization"],
): RemoteBlobSource {
  return new RemoteBlobSource(client.blobFetcher(repository, descriptor, authorization));
}

/** A blob in a registry. Closing it ends its transfers; the client goes on. */
export class RemoteBlobSource implements BlobSource {
  readonly #fetcher: BlobFetcher;
  readonly #lifetime = new AbortController();

  constructor(fetcher: BlobFetcher) {
    this.#fetcher = fetcher;
  }

  get digest(): Digest {
    return this.#fetcher.location.digest;
  }

  get sizeBytes(): number {
    return this.#fetcher.location.sizeBytes;
  }

  get description(): string {
    return this.#fetcher.description;
  }

  get rangesSupported(): boolean {
    return this.#fetcher.rangesSupported;
  }

  stats(): TransferCounts {
    return this.#fetcher.stats.counts();
  }

  async *fetchRange(offset: number, length: number, options: FetchOptions = {}): AsyncIterable<Uint8Array> {
    checkRange(offset, length, this.sizeBytes, this.description);
    using linked = new LinkedSignal(options.signal, this.#lifetime.signal);
    throwIfAborted(linked.signal, this.description);
    yield* this.#fetcher.fetchRange(offset, length, { ...options, signal: linked.signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new OcifsError("aborted", `${this.description}: it is closed`));
  }
}
