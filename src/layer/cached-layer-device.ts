import { OcifsError } from "../base/errors.js";
import type { SpanStore } from "../native/layer.js";
import type { LayerDevice } from "./layer-device.js";
import type { SpanProvider } from "./span-provider.js";

/** Reads between eviction and refill that may fail before it is no coincidence any more. */
const MAX_TRIES = 16;

/** The uncompressed layer as a readable range: what is present from the store, the rest through the fetcher. */
export class CachedLayerDevice implements LayerDevice {
  readonly sizeBytes: number;
  readonly #store: SpanStore;
  readonly #fetcher: SpanProvider;

  /** Takes over neither the store nor the fetcher: a mount uses them too. */
  constructor(store: SpanStore, fetcher: SpanProvider) {
    this.#store = store;
    this.#fetcher = fetcher;
    this.sizeBytes = store.stats().sizeBytes;
  }

  async read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    const size = Math.max(0, Math.min(length, this.sizeBytes - offset));
    const bytes = new Uint8Array(size);
    if (size === 0) return bytes;
    using _ = this.#fetcher.hold(this.#store.spanAt(offset), this.#store.spanAt(offset + size - 1));
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const missing = await this.#store.read(offset, bytes);
      if (missing === true) return bytes;
      await this.#fetcher.ensure(missing.first, missing.last, { tries, ...(signal ? { signal } : {}) });
    }
    throw new OcifsError(
      "io",
      `layer read of ${size} bytes at ${offset}: the cache gave them up ${MAX_TRIES} times before they could be read`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing of its own to close.
  }
}
