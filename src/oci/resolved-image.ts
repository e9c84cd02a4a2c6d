import type { Digest } from "./digest.js";
import type { ImageManifest } from "./manifest.js";

/** What a reference and a platform led to. */
export interface ResolvedImage {
  /** Digest of what the reference named: an index, or the manifest itself. */
  readonly rootDigest: Digest;
  /** Digest of the manifest of the chosen platform. */
  readonly manifestDigest: Digest;
  /** The manifest as it was served; `manifestDigest` is the digest of exactly these bytes. */
  readonly manifestBytes: Uint8Array;
  readonly manifest: ImageManifest;
  /** Every document on the way, as served: indexes from the one that the reference named, the manifest last. */
  readonly documents: readonly { readonly digest: Digest; readonly bytes: Uint8Array }[];
}
