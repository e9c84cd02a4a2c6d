import { OcifsError } from "../base/errors.js";
import { type CheckpointTable, deflateMaxRatio } from "./zinfo.js";

export interface SpanIndexOptions {
  readonly blobSizeBytes: number;
  /** Uncompressed bytes to be served. May be fewer than the blob holds when `streamEnds` is false. */
  readonly uncompressedSizeBytes: number;
  /**
   * The size is that of the whole stream, as in an index made here, so decoding the last span checks that the stream ends
   * with it. False for a foreign zinfo: its size comes from the tarindex, which leaves out padding at the tar's end.
   */
  readonly streamEnds: boolean;
}

/** What decoding one span takes. Window offsets are those of `Zinfo.windowOffset`, by record; -1 stands for none. */
export interface Span {
  readonly begin: number;
  readonly end: number;
  readonly bits: number;
  readonly atHeader: boolean;
  readonly outSizeBytes: number;
  /** Record whose window comes before the span, or -1. */
  readonly windowRecord: number;
  /** Record whose window the span's output leads to, or -1. */
  readonly nextWindowRecord: number;
  readonly last: boolean;
}

/**
 * The spans of a gzip blob: span i runs from one checkpoint to the next. Checkpoints at or behind the uncompressed size, and
 * all but the first at one output offset (empty gzip members), make no span of their own; in an index made here there are
 * none, so span numbers are record numbers. At least one span, which is empty when the layer is.
 */
export class SpanIndex {
  readonly spanCount: number;
  readonly uncompressedSizeBytes: number;
  readonly blobSizeBytes: number;
  readonly #table: CheckpointTable;
  readonly #streamEnds: boolean;
  /** Record of each span, and one more: the record at which the last span ends, or the record count. */
  readonly #records: Uint32Array;

  /** Takes a table that `checkZinfoTable` has passed. `mismatch` when it cannot belong to the sizes given. */
  constructor(table: CheckpointTable, options: SpanIndexOptions) {
    const { blobSizeBytes, uncompressedSizeBytes, streamEnds } = options;
    const count = table.in.length;
    const records = new Uint32Array(count + 1);
    let spans = 0;
    let record = 0;
    for (; record < count; record++) {
      const out = table.out[record] ?? 0;
      if (spans > 0 && out >= uncompressedSizeBytes) break;
      if (spans === 0 || out > (table.out[record - 1] ?? 0)) records[spans++] = record;
    }
    records[spans] = record;
    const lastOut = table.out[count - 1] ?? 0;
    if (streamEnds && lastOut > uncompressedSizeBytes) {
      throw new OcifsError(
        "mismatch",
        `zinfo: its last checkpoint lies at uncompressed byte ${lastOut} of a layer of ${uncompressedSizeBytes}; ` +
          "it was made for another layer",
      );
    }
    this.#table = table;
    this.#streamEnds = streamEnds && record === count;
    this.#records = records.subarray(0, spans + 1);
    this.spanCount = spans;
    this.blobSizeBytes = blobSizeBytes;
    this.uncompressedSizeBytes = uncompressedSizeBytes;
    const { begin, end } = this.compressedRange(spans - 1);
    const lastSize = this.outEnd(spans - 1) - this.outStart(spans - 1);
    if (lastSize > deflateMaxRatio * (end - begin)) {
      throw new OcifsError(
        "mismatch",
        `zinfo: the last span would unpack ${end - begin} bytes to ${lastSize}, more than deflate can; ` +
          "the layer's size belongs to another blob",
      );
    }
  }

  /** Uncompressed offset of the span's first byte. */
  outStart(span: number): number {
    return this.#table.out[this.#record(span)] ?? 0;
  }

  /** Uncompressed offset behind the span's last byte. */
  outEnd(span: number): number {
    return span === this.spanCount - 1 ? this.uncompressedSizeBytes : this.outStart(span + 1);
  }

  /**
   * The compressed bytes that the span is decoded from. Neighbours share a byte where a block ends inside one; between two
   * gzip members the trailer and the header belong to the span before.
   */
  compressedRange(span: number): { readonly begin: number; readonly end: number } {
    const record = this.#record(span);
    const next = this.#records[span + 1] ?? 0;
    const begin = span === 0 ? 0 : (this.#table.in[record] ?? 0) - (this.#table.bits[record] === 0 ? 0 : 1);
    return { begin, end: this.#table.in[next] ?? this.blobSizeBytes };
  }

  /** Everything the decoder is told of the span. */
  span(span: number): Span {
    const record = this.#record(span);
    const next = this.#records[span + 1] ?? 0;
    const outEnd = this.outEnd(span);
    const last = span === this.spanCount - 1;
    return {
      ...this.compressedRange(span),
      bits: span === 0 ? 0 : (this.#table.bits[record] ?? 0),
      atHeader: span === 0,
      outSizeBytes: outEnd - this.outStart(span),
      windowRecord: span === 0 ? -1 : record,
      nextWindowRecord: this.#table.out[next] === outEnd ? next : -1,
      last: last && this.#streamEnds,
    };
  }

  /** The zinfo record (and span digest, in an index made here) of a span. */
  recordOf(span: number): number {
    return this.#record(span);
  }

  /** The span that holds uncompressed byte `offset`. `usage` outside [0, uncompressedSizeBytes). */
  spanAt(offset: number): number {
    if (!(offset >= 0 && offset < this.uncompressedSizeBytes)) {
      throw new OcifsError("usage", `span index: byte ${offset} is outside the layer's ${this.uncompressedSizeBytes}`);
    }
    let low = 0;
    let high = this.spanCount - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.outStart(middle) <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #record(span: number): number {
    const record = span >= 0 && span < this.spanCount ? this.#records[span] : undefined;
    if (record === undefined) {
      throw new OcifsError("usage", `span index: no span ${span}, there are ${this.spanCount}`);
    }
    return record;
  }
}
