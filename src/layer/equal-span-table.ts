import { createHash } from "node:crypto";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { ByteRange } from "../native/sparse.js";
import type { SpanDecodeInput, SpanTable } from "./span-table.js";

const DEFAULT_SPAN_BYTES = 1 << 20;

export interface EqualSpanTableOptions {
  /** tar: the blob is the layer itself. zstd: every span is made of the whole blob. */
  readonly encoding: "tar" | "zstd";
  readonly blobSizeBytes: number;
  /** Of the uncompressed layer. */
  readonly sizeBytes: number;
  readonly spanBytes?: number | undefined;
  /** sha256, hex, of spans of exactly `spanBytes`. */
  readonly digests?: readonly string[] | undefined;
}

/** A layer without checkpoints, divided into equal spans. */
export class EqualSpanTable implements SpanTable {
  readonly encoding: "tar" | "zstd";
  readonly spanCount: number;
  readonly outStarts: Float64Array;
  readonly partition: Uint8Array;
  readonly #blobSizeBytes: number;
  readonly #digests: readonly Uint8Array[] | undefined;

  constructor(options: EqualSpanTableOptions) {
    const { encoding, blobSizeBytes, sizeBytes, spanBytes = DEFAULT_SPAN_BYTES, digests } = options;
    if (sizeBytes < 0 || spanBytes < 1) {
      throw new OcifsError("corrupt", `${encoding} layer: ${sizeBytes} bytes in spans of ${spanBytes}`);
    }
    this.encoding = encoding;
    this.#blobSizeBytes = blobSizeBytes;
    this.spanCount = Math.ceil(sizeBytes / spanBytes);
    if (this.spanCount > limits.checkpoints) {
      throw new OcifsError("limit", `${encoding} layer: ${this.spanCount} spans, the limit is ${limits.checkpoints}`);
    }
    if (digests !== undefined && digests.length !== this.spanCount) {
      throw new OcifsError(
        "mismatch",
        `${encoding} layer: ${this.spanCount} spans, the index has digests of ${digests.length}`,
      );
    }
    this.outStarts = Float64Array.from({ length: this.spanCount + 1 }, (_, i) => Math.min(i * spanBytes, sizeBytes));
    this.#digests = digests?.map((hex) => Buffer.from(hex, "hex"));
    const identity = createHash("sha256").update(`${encoding} ${spanBytes} ${sizeBytes}\n`);
    for (const digest of digests ?? []) identity.update(digest);
    this.partition = identity.digest();
  }

  compressedRange(span: number): ByteRange {
    if (this.encoding === "zstd") return { begin: 0, end: this.#blobSizeBytes };
    return { begin: this.outStarts[span] ?? 0, end: this.outStarts[span + 1] ?? 0 };
  }

  decodeInput(): SpanDecodeInput {
    return { bits: 0, atHeader: false, last: false, zinfoFd: -1, windowOffset: -1, nextWindowOffset: -1 };
  }

  digest(span: number): Uint8Array | undefined {
    return this.#digests?.[span];
  }
}
