import { createHash } from "node:crypto";
import type { SpanIndex } from "../gzip/span-index.js";
import type { Zinfo } from "../gzip/zinfo.js";
import type { ByteRange } from "../native/sparse.js";
import type { SpanDecodeInput, SpanTable } from "./span-table.js";

export interface GzipSpanTableOptions {
  readonly index: SpanIndex;
  /** Stays open for as long as the table is used: the decoder reads the checkpoints' windows from it. */
  readonly zinfo: Zinfo;
  /** sha256 of the whole zinfo file, windows included: two zinfos may differ in nothing else. */
  readonly zinfoDigest: string;
  /** sha256 of the uncompressed bytes of each span, hex, where the index recorded them. */
  readonly spanDigests: readonly string[] | undefined;
}

/** A gzip layer divided by the checkpoints of its zinfo. */
export class GzipSpanTable implements SpanTable {
  readonly encoding = "gzip";
  readonly spanCount: number;
  readonly outStarts: Float64Array;
  readonly partition: Uint8Array;
  readonly #index: SpanIndex;
  readonly #zinfo: Zinfo;
  readonly #digests: readonly Uint8Array[] | undefined;

  constructor(options: GzipSpanTableOptions) {
    const { index } = options;
    this.#index = index;
    this.#zinfo = options.zinfo;
    this.spanCount = index.uncompressedSizeBytes === 0 ? 0 : index.spanCount;
    this.outStarts = Float64Array.from({ length: this.spanCount + 1 }, (_, i) =>
      i === this.spanCount ? index.uncompressedSizeBytes : index.outStart(i),
    );
    this.#digests = options.spanDigests?.map((hex) => Buffer.from(hex, "hex"));
    const identity = createHash("sha256").update(`gzip ${options.zinfoDigest} ${this.outStarts.at(-1)}\n`);
    for (const digest of options.spanDigests ?? []) identity.update(digest);
    this.partition = identity.digest();
  }

  compressedRange(span: number): ByteRange {
    return this.#index.compressedRange(span);
  }

  decodeInput(span: number): SpanDecodeInput {
    const { bits, atHeader, last, windowRecord, nextWindowRecord } = this.#index.span(span);
    const offsetOf = (record: number) => (record < 0 ? -1 : this.#zinfo.windowOffset(record));
    return {
      bits,
      atHeader,
      last,
      zinfoFd: this.#zinfo.fd,
      windowOffset: offsetOf(windowRecord),
      nextWindowOffset: offsetOf(nextWindowRecord),
    };
  }

  digest(span: number): Uint8Array | undefined {
    return this.#digests?.[span];
  }
}
