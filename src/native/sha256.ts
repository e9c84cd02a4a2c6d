import { addon, awaitNative, callNative } from "./addon.js";

/** SHA-256 of bytes that stream by, computed on pool threads. */
export interface Sha256Stream {
  /** The bytes may not change before the promise settles. One at a time: `usage` while another update runs. */
  update(bytes: Uint8Array): Promise<void>;
  /** 32 bytes, of all updates. It then starts anew. `usage` while an update runs. */
  digest(): Uint8Array;
}

/** SHA-256 of a layer's uncompressed bytes and of each of its spans, computed on pool threads. */
export interface LayerHash {
  /**
   * `spanStarts`: bytes of the layer at which spans begin, ascending, none before these bytes or behind their end. The bytes may not change
   * before the promise settles. One at a time: `usage` while another update runs. After a rejection the hash is of no more use.
   */
  update(bytes: Uint8Array, spanStarts: Float64Array): Promise<void>;
  /** Ends the last span. To be called once; `usage` while an update runs. `spanDigests`: 32 bytes each. */
  finish(): { readonly digest: Uint8Array; readonly spanDigests: Uint8Array };
}

const native = addon as unknown as { openSha256(): Sha256Stream; openLayerHash(): LayerHash };

export function openLayerHash(): LayerHash {
  const hash = callNative(() => native.openLayerHash());
  return {
    update: (bytes, spanStarts) => awaitNative(async () => hash.update(bytes, spanStarts)),
    finish: () => callNative(() => hash.finish()),
  };
}

export function openSha256(): Sha256Stream {
  const stream = callNative(() => native.openSha256());
  return {
    update: (bytes) => awaitNative(async () => stream.update(bytes)),
    digest: () => callNative(() => stream.digest()),
  };
}
