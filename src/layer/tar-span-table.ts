import { createHash } from "node:crypto";
import type { ByteRange } from "../native/sparse.js";
import type { SpanDecodeInput, SpanTable } from "./span-table.js";

const SPAN_BYTES = 1 << 20;

/** An uncompressed layer: the blob is the tar, divided into equal spans. */
export class TarSpanTable implements SpanTable {
  readonly encoding = "tar";
  readonly spanCount: number;
  readonly outStarts: Float64Array;
  readonly partition: Uint8Array;
  readonly #digest: (span: number) => Uint8Array | undefined;

  constructor(sizeBytes: number, digest: (span: number) => Uint8Array | undefined = () => undefined) {
    this.spanCount = Math.max(1, Math.ceil(sizeBytes / SPAN_BYTES));
    this.outStarts = Float64Array.from({ length: this.spanCount + 1 }, (_, i) => Math.min(i * SPAN_BYTES, sizeBytes));
    this.partition = createHash("sha256").update(`tar ${SPAN_BYTES} ${sizeBytes}`).digest();
    this.#digest = digest;
  }

  compressedRange(span: number): ByteRange {
    return { begin: this.outStarts[span] ?? 0, end: this.outStarts[span + 1] ?? 0 };
  }

  decodeInput(): SpanDecodeInput {
    return { bits: 0, atHeader: false, last: false, zinfoFd: -1, windowOffset: -1, nextWindowOffset: -1 };
  }

  digest(span: number): Uint8Array | undefined {
    return this.#digest(span);
  }
}
