import { existsSync } from "node:fs";
import { join } from "node:path";
import { PIN_FILE } from "../cache/blob-use.js";
import { EVICTION_PIECE_BYTES } from "../cache/evict.js";
import type { CacheHolder } from "../cache/room.js";
import { SPAN_PRESENT, type SpanStore, type SpanUse } from "../native/layer.js";
import type { ByteRange } from "../native/sparse.js";
import type { LayerMarks } from "./layer-marks.js";
import type { RangeFetcher } from "./range-fetcher.js";
import type { SpanProvider } from "./span-provider.js";
import type { SpanTable } from "./span-table.js";

export interface LayerEvictionOptions {
  /** Of the blob in the cache. */
  readonly directory: string;
  /** Taken away before anything is given up. */
  readonly marks: LayerMarks;
  readonly table: SpanTable;
  readonly store: SpanStore;
  readonly fetcher: RangeFetcher;
  readonly spans: SpanProvider;
}

/** What an open layer gives up when room is short. */
export class LayerEviction implements CacheHolder {
  readonly #o: LayerEvictionOptions;

  constructor(options: LayerEvictionOptions) {
    this.#o = options;
  }

  async giveUpCompressed(bytes: number): Promise<number> {
    const { fetcher, marks } = this.#o;
    const present = fetcher.disk?.present({ begin: 0, end: fetcher.disk.sizeBytes }) ?? [];
    if (present.length === 0 || this.#pinned) return 0;
    await marks.clearBlob();
    let freed = 0;
    // What has been decoded first: nobody needs it any more unless its spans go as well.
    for (const ranges of [present.flatMap((range) => this.#decoded(range)), present]) {
      for (const range of ranges) {
        for (let begin = range.begin; begin < range.end; begin += EVICTION_PIECE_BYTES) {
          if (freed >= bytes) return freed;
          freed += fetcher.giveUp({ begin, end: Math.min(range.end, begin + EVICTION_PIECE_BYTES) });
        }
      }
    }
    return freed;
  }

  oldestSpans(count: number): readonly SpanUse[] {
    if (this.#pinned) return [];
    return this.#o.store.leastRecent(count).filter(({ span }) => !this.#o.spans.holds(span));
  }

  async giveUpSpans(spans: readonly number[]): Promise<number> {
    const { marks, store } = this.#o;
    await marks.clearTar();
    return await store.tryEvict(spans);
  }

  get #pinned(): boolean {
    return existsSync(join(this.#o.directory, PIN_FILE));
  }

  /** The parts of `range` that present spans were made from; runs of neighbours as one. */
  #decoded(range: ByteRange): ByteRange[] {
    const { table, store } = this.#o;
    const out: ByteRange[] = [];
    for (let span = this.#firstSpanPast(range.begin); span < table.spanCount; span++) {
      const { begin, end } = table.compressedRange(span);
      if (begin >= range.end) break;
      if (store.state(span) !== SPAN_PRESENT) continue;
      const before = out.at(-1);
      if (before && before.end >= begin) out[out.length - 1] = { begin: before.begin, end: Math.min(end, range.end) };
      else out.push({ begin: Math.max(begin, range.begin), end: Math.min(end, range.end) });
    }
    return out;
  }

  /** The first span whose compressed bytes end behind `offset`. */
  #firstSpanPast(offset: number): number {
    const { table } = this.#o;
    let low = 0;
    for (let high = table.spanCount; low < high; ) {
      const middle = (low + high) >> 1;
      if (table.compressedRange(middle).end <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
