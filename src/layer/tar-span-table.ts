import { createHash } from "node:crypto";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { ByteRange } from "../native/sparse.js";
import type { SpanDecodeInput, SpanTable } from "./span-table.js";

const DEFAULT_SPAN_BYTES = 1 << 20;

/** An uncompressed layer: the blob is the tar, divided into equal spans. */
export class TarSpanTable implements SpanTable {
  readonly encoding = "tar";
  readonly spanCount: number;
  readonly outStarts: Float64Array;
  readonly partition: Uint8Array;
  readonly #digests: readonly Uint8Array[] | undefined;

  /** `digests` (sha256, hex) belong to spans of exactly `spanBytes`. */
  constructor(sizeBytes: number, spanBytes: number = DEFAULT_SPAN_BYTES, digests?: readonly string[]) {
    if (sizeBytes < 0 || spanBytes < 1)
      throw new OcifsError("corrupt", `tar layer: ${sizeBytes} bytes in spans of ${spanBytes}`);
    this.spanCount = Math.ceil(sizeBytes / spanBytes);
    if (this.spanCount > limits.checkpoints) {
      throw new OcifsError("limit", `tar layer: ${this.spanCount} spans, the limit is ${limits.checkpoints}`);
    }
    if (digests !== undefined && digests.length !== this.spanCount) {
      throw new OcifsError(
        "mismatch",
        `tar layer: ${this.spanCount} spans, the index has digests of ${digests.length}`,
      );
    }
    this.outStarts = Float64Array.from({ length: this.spanCount + 1 }, (_, i) => Math.min(i * spanBytes, sizeBytes));
    this.#digests = digests?.map((hex) => Buffer.from(hex, "hex"));
    const identity = createHash("sha256").update(`tar ${spanBytes} ${sizeBytes}\n`);
    for (const digest of digests ?? []) identity.update(digest);
    this.partition = identity.digest();
  }

  compressedRange(span: number): ByteRange {
    return { begin: this.outStarts[span] ?? 0, end: this.outStarts[span + 1] ?? 0 };
  }

  decodeInput(): SpanDecodeInput {
    return { bits: 0, atHeader: false, last: false, zinfoFd: -1, windowOffset: -1, nextWindowOffset: -1 };
  }

  digest(span: number): Uint8Array | undefined {
    return this.#digests?.[span];
  }
}
