import { createHash, type Hash } from "node:crypto";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";

/** SHA-256 of each `spanSizeBytes` of a stream, for layers that are their own random-access form. */
export class SpanHasher {
  readonly #spanSizeBytes: number;
  readonly #digests: string[] = [];
  #hash: Hash | undefined;
  #filled = 0;

  constructor(spanSizeBytes: number) {
    this.#spanSizeBytes = spanSizeBytes;
  }

  /** Throws `limit` beyond limits.checkpoints spans. */
  update(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const used = Math.min(bytes.length - at, this.#spanSizeBytes - this.#filled);
      this.#hash ??= createHash("sha256");
      this.#hash.update(bytes.subarray(at, at + used));
      this.#filled += used;
      at += used;
      if (this.#filled === this.#spanSizeBytes) this.#endSpan();
    }
  }

  /** One hex digest a span; the last span may be shorter. */
  finish(): readonly string[] {
    this.#endSpan();
    return this.#digests;
  }

  #endSpan(): void {
    if (this.#hash === undefined) return;
    if (this.#digests.length === limits.checkpoints) {
      throw new OcifsError("limit", `index create: more than ${limits.checkpoints} spans; choose a larger span size`);
    }
    this.#digests.push(this.#hash.digest("hex"));
    this.#hash = undefined;
    this.#filled = 0;
  }
}
