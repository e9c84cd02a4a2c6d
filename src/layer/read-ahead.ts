import { setMaxListeners } from "node:events";
import { fetchSizes } from "./fetch-sizes.js";
import type { SpanRange } from "./span-ranges.js";
import type { Speculation } from "./speculation.js";

/** Spans passed over by a reader that still goes on: directories and tars are not in quite the same order. */
const GAP_SPANS = 2;
/** Ends of files that a reader must have gone past before it is expected to go past the next one. */
const FILE_ENDS = 2;

/** Spans worth fetching before they are asked for. `giveUp` fires when that has turned out to be wrong. */
export interface Ahead extends SpanRange {
  readonly giveUp: AbortSignal;
}

/** Somebody who reads the layer front to back, through one file or many. */
interface Reader {
  next: number;
  /** Compressed bytes that were read one after the other. */
  bytes: number;
  fileEnd: number;
  fileEndsPassed: number;
  /** How far to fetch ahead within a file. */
  growthBytes: number;
  /** The last span that was fetched ahead. */
  ahead: number;
  readonly stop: AbortController;
}

interface File {
  readonly end: number;
  lowest: number;
  bytes: number;
}

/**
 * Tells how one layer is read, and what to fetch before it is asked for. A first read earns nothing. A reader that goes on is
 * fetched ahead of: within its file from 1 MiB, doubling; past the ends of files, once it has passed some, as far as it
 * has come; never further than `maxRangeBytes`, of which the second half is asked for while the first arrives. A second read in
 * a small file brings the rest of it. It knows nothing of requests or descriptors: only of spans, in the order of their misses.
 */
export class ReadAhead {
  readonly #speculation: Speculation;
  readonly #spanCount: number;
  /** Latest first. */
  #readers: Reader[] = [];
  #files: File[] = [];

  constructor(speculation: Speculation, spanCount: number) {
    this.#speculation = speculation;
    this.#spanCount = spanCount;
  }

  /**
   * Notes a miss of spans [first, last] in a file that goes on to `fileEnd`; returns what is worth fetching beyond. Who knows
   * of no file says `last`.
   */
  note(first: number, last: number, fileEnd: number): Ahead[] {
    const isNew = this.#speculation.touch({ first, last }) > 0;
    const reader = this.#readerAt(first, last, fileEnd);
    const plans = [this.#goOn(reader, last, fileEnd)];
    if (isNew) plans.push(this.#restOfFile(first, last, fileEnd, reader.stop.signal));
    return plans.filter((plan) => plan !== undefined);
  }

  #readerAt(first: number, last: number, fileEnd: number): Reader {
    // The kernel's own readahead may ask a little out of order.
    const known = this.#readers.find((r) => first >= r.next - 1 && first <= r.next + GAP_SPANS);
    const reader = known ?? {
      next: first,
      bytes: 0,
      fileEnd,
      fileEndsPassed: 0,
      growthBytes: 0,
      ahead: last,
      stop: newStop(),
    };
    reader.bytes += this.#speculation.sizeOf({ first: Math.max(first, reader.next), last });
    if (known && last + 1 > known.next) {
      known.growthBytes = Math.max(fetchSizes.firstGrowthBytes, known.growthBytes * 2);
    }
    reader.next = Math.max(reader.next, last + 1);
    if (fileEnd !== reader.fileEnd) {
      reader.fileEnd = fileEnd;
      reader.fileEndsPassed += 1;
    }
    this.#readers = [reader, ...this.#readers.filter((r) => r !== reader)];
    // So many others have been read since that what was expected of this one was wrong.
    for (const old of this.#readers.splice(fetchSizes.trackedReaders)) old.stop.abort();
    return reader;
  }

  /** As far ahead of a reader as it has earned. */
  #goOn(reader: Reader, last: number, fileEnd: number): Ahead | undefined {
    const from = Math.max(reader.ahead, last) + 1;
    const end = this.#spanCount - 1;
    // Within a file that is read in order there is no better evidence; past its end it is a guess.
    let to = this.#window(last, from, Math.min(fileEnd, end), reader.growthBytes);
    if (reader.fileEndsPassed >= FILE_ENDS) {
      const allowance = this.#speculation.allowance(reader.bytes);
      to = Math.max(to, this.#window(last, from, end, reader.bytes, allowance));
    }
    if (to < from) return undefined;
    reader.ahead = to;
    return this.#enter({ first: from, last: to, giveUp: reader.stop.signal });
  }

  /**
   * The last span of a window behind `last`, of which everything before `from` is on its way already; `from - 1` while that is
   * more than half of it.
   */
  #window(last: number, from: number, end: number, bytes: number, allowance = Number.POSITIVE_INFINITY): number {
    const windowBytes = Math.min(fetchSizes.maxRangeBytes, bytes);
    const coveredBytes = this.#speculation.sizeOf({ first: last + 1, last: from - 1 });
    if (coveredBytes > windowBytes / 2) return from - 1;
    return this.#reach(from, end, Math.min(windowBytes - coveredBytes, allowance));
  }

  /**
   * What is missing of a small file that is read here and there, as programs and libraries are: nearest to the read, first what
   * follows it.
   */
  #restOfFile(first: number, last: number, fileEnd: number, giveUp: AbortSignal): Ahead | undefined {
    const bytes = this.#speculation.sizeOf({ first, last });
    const file = this.#files.find(({ end }) => end === fileEnd);
    if (!file) {
      if (fileEnd <= last) return undefined;
      this.#files = [{ end: fileEnd, lowest: first, bytes }, ...this.#files].slice(0, fetchSizes.trackedReaders);
      return undefined;
    }
    file.lowest = Math.min(file.lowest, first);
    file.bytes += bytes;
    if (this.#speculation.sizeOf({ first: file.lowest, last: fileEnd }) > fetchSizes.wholeFileBytes) return undefined;
    const allowance = this.#speculation.allowance(file.bytes);
    const after = this.#reach(last + 1, fileEnd, allowance);
    if (after > last) return this.#enter({ first: last + 1, last: after, giveUp });
    let before = first;
    for (let left = allowance; before > file.lowest && !this.#speculation.wanted(before - 1); before--) {
      left -= this.#sizeOf(before - 1);
      if (left < 0) break;
    }
    return before < first ? this.#enter({ first: before, last: first - 1, giveUp }) : undefined;
  }

  #enter(plan: Ahead): Ahead {
    this.#speculation.enter(plan);
    return plan;
  }

  /** The last span from `from` that fits, and that nobody has asked for yet; `from - 1` for none. */
  #reach(from: number, end: number, bytes: number): number {
    let span = from;
    for (let left = bytes; span <= end && !this.#speculation.wanted(span); span++) {
      left -= this.#sizeOf(span);
      if (left < 0) break;
    }
    return span - 1;
  }

  #sizeOf(span: number): number {
    return this.#speculation.sizeOf({ first: span, last: span });
  }
}

function newStop(): AbortController {
  const stop = new AbortController();
  // One for each transfer: no leak, as Node would warn of.
  setMaxListeners(0, stop.signal);
  return stop;
}
