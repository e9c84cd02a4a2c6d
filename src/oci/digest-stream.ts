import { createHash } from "node:crypto";
import { openSha256 } from "../native/sha256.js";
import type { Digest } from "./digest.js";

/** The digest of bytes that stream by. */
export interface DigestStream {
  /** The bytes may not change before the promise settles; one update at a time. */
  update(bytes: Uint8Array): Promise<void>;
  /** Of all updates; call once, when none runs. */
  finish(): Digest;
}

/** SHA-256 is computed on pool threads. The rare SHA-512 is computed at once, on this one. */
export function openDigestStream(algorithm: "sha256" | "sha512"): DigestStream {
  if (algorithm === "sha256") {
    const hash = openSha256();
    return {
      update: (bytes) => hash.update(bytes),
      finish: () => `sha256:${Buffer.from(hash.digest()).toString("hex")}`,
    };
  }
  const hash = createHash("sha512");
  return {
    update: async (bytes) => {
      hash.update(bytes);
    },
    finish: () => `sha512:${hash.digest("hex")}`,
  };
}

/**
 * Digest and size of what `read` gives from byte 0 on, until it gives nothing. The next bytes are read while the last are
 * hashed, so two answers of `read` are in use at a time.
 */
export async function digestOfReads(
  algorithm: "sha256" | "sha512",
  read: (position: number) => Promise<Uint8Array>,
): Promise<{ readonly digest: Digest; readonly sizeBytes: number }> {
  const hash = openDigestStream(algorithm);
  let sizeBytes = 0;
  for (let bytes = await read(0); bytes.length > 0; ) {
    sizeBytes += bytes.length;
    const [hashed, next] = await Promise.allSettled([hash.update(bytes), read(sizeBytes)]);
    if (hashed.status === "rejected") throw hashed.reason;
    if (next.status === "rejected") throw next.reason;
    bytes = next.value;
  }
  return { digest: hash.finish(), sizeBytes };
}
