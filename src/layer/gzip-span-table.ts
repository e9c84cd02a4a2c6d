import { createHash } from "node:crypto";
import type { SpanIndex } from "../gzip/span-index.js";
import type { ByteRange } from "../native/sparse.js";
import type { SpanDecodeInput, SpanTable } from "./span-table.js";

export interface GzipSpanTableOptions {
  readonly index: SpanIndex;
  /** Of the zinfo file with the checkpoints' windows; read by the decoder. */
  readonly zinfoFd: number;
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
  readonly #zinfoFd: number;
  readonly #digests: readonly Uint8Array[] | undefined;

  constructor(options: GzipSpanTableOptions) {
    const { index } = options;
    this.#index = index;
    this.#zinfoFd = options.zinfoFd;
    this.spanCount = index.spanCount;
    this.outStarts = index.outStarts;
    this.#digests = options.spanDigests?.map((hex) => Buffer.from(hex, "hex"));
    const identity = createHash("sha256").update(`gzip ${options.zinfoDigest} ${this.outStarts.at(-1)}\n`);
    for (const digest of options.spanDigests ?? []) identity.update(digest);
    this.partition = identity.digest();
  }

  compressedRange(span: number): ByteRange {
    return this.#index.compressedRange(span);
  }

  decodeInput(span: number): SpanDecodeInput {
    const { bits, atHeader, last, windowOffset, nextWindowOffset } = this.#index.decodeInput(span);
    return { bits, atHeader, last, windowOffset, nextWindowOffset, zinfoFd: this.#zinfoFd };
  }

  digest(span: number): Uint8Array | undefined {
    return this.#digests?.[span];
  }
}
