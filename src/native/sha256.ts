import { addon, awaitNative, callNative } from "./addon.js";

/** SHA-256 of bytes that stream by, computed on pool threads. */
export interface Sha256Stream {
  /** The bytes may not change before the promise settles. One at a time: `usage` while another update runs. */
  update(bytes: Uint8Array): Promise<void>;
  /** 32 bytes, of all updates. It then starts anew. `usage` while an update runs. */
  digest(): Uint8Array;
}

const native = addon as unknown as { openSha256(): Sha256Stream };

export function openSha256(): Sha256Stream {
  const stream = callNative(() => native.openSha256());
  return {
    update: (bytes) => awaitNative(async () => stream.update(bytes)),
    digest: () => callNative(() => stream.digest()),
  };
}
