import type { ByteRange } from "../native/sparse.js";

/** What the decoder needs to know of one span besides its compressed bytes; see native/layer/span_fill.h. */
export interface SpanDecodeInput {
  /** Unused high bits of the range's first byte that belong to this span. */
  readonly bits: number;
  /** The range begins with a gzip header. */
  readonly atHeader: boolean;
  /** The stream must end with this span. */
  readonly last: boolean;
  readonly zinfoFd: number;
  /** Offset of this checkpoint's window in the zinfo, -1 for none. */
  readonly windowOffset: number;
  readonly nextWindowOffset: number;
}

/**
 * How the uncompressed bytes of a layer are divided into spans, each of which can be produced on its own.
 * Implementations: gzip with a zinfo, and equal spans of plain tar or zstd.
 */
export interface SpanTable {
  readonly encoding: "gzip" | "tar" | "zstd";
  readonly spanCount: number;
  /** spanCount + 1 offsets in the uncompressed layer: 0, …, its size. */
  readonly outStarts: Float64Array;
  /** sha256 that identifies the table: two tables of one blob must not share a span state file. */
  readonly partition: Uint8Array;
  /** The bytes of the blob that the span is made of. */
  compressedRange(span: number): ByteRange;
  decodeInput(span: number): SpanDecodeInput;
  /** sha256 of the span's uncompressed bytes, where the index recorded one. */
  digest(span: number): Uint8Array | undefined;
}

/** The part of a cache file's name that tells which table divides it. */
export function cacheKeyOf(table: SpanTable): string {
  return Buffer.from(table.partition).toString("hex").slice(0, 16);
}
