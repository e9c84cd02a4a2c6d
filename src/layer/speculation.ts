import { fetchSizes } from "./fetch-sizes.js";
import type { SpanRange } from "./span-ranges.js";
import type { SpanTable } from "./span-table.js";

const UNKNOWN = 0;
const TOUCHED = 1;
const AHEAD = 2;

/**
 * The account of what was fetched of one layer before anybody asked for it. Bytes that nobody has asked for yet may be as
 * many as `fetchSizes.unprovenShare` of those that were asked for, or as the evidence that a guess rests on, whichever is more:
 * wrong guesses take the room of later ones until enough is read again.
 */
export class Speculation {
  readonly #table: Pick<SpanTable, "spanCount" | "compressedRange">;
  readonly #isHere: (span: number) => boolean;
  readonly #state: Uint8Array;
  #touchedBytes = 0;
  #unusedBytes = 0;
  #usedBytes = 0;

  /** `isHere`: nothing need be fetched for this span, since it is decoded. */
  constructor(table: Pick<SpanTable, "spanCount" | "compressedRange">, isHere: (span: number) => boolean) {
    this.#table = table;
    this.#isHere = isHere;
    this.#state = new Uint8Array(table.spanCount);
  }

  /** Compressed bytes: of spans that readers wanted; fetched ahead and wanted later; fetched ahead and not wanted so far. */
  get account(): { readonly touchedBytes: number; readonly usedBytes: number; readonly unusedBytes: number } {
    return { touchedBytes: this.#touchedBytes, usedBytes: this.#usedBytes, unusedBytes: this.#unusedBytes };
  }

  /** Compressed bytes of these spans; none when there are none. */
  sizeOf({ first, last }: SpanRange): number {
    return last < first ? 0 : this.#table.compressedRange(last).end - this.#table.compressedRange(first).begin;
  }

  /** A reader wants these spans. Returns how many compressed bytes of them nobody had wanted before. */
  touch({ first, last }: SpanRange): number {
    let bytes = 0;
    for (let span = first; span <= last; span++) {
      const state = this.#state[span];
      if (state === TOUCHED) continue;
      const size = this.sizeOf({ first: span, last: span });
      bytes += size;
      if (state === AHEAD) {
        this.#unusedBytes -= size;
        this.#usedBytes += size;
      }
      this.#state[span] = TOUCHED;
    }
    this.#touchedBytes += bytes;
    return bytes;
  }

  wanted(span: number): boolean {
    return this.#state[span] === TOUCHED;
  }

  /** How many bytes more may be fetched ahead on a guess that rests on `evidenceBytes` of reading. */
  allowance(evidenceBytes: number): number {
    const evidence = Math.min(evidenceBytes, fetchSizes.maxRangeBytes);
    const bound = Math.max(evidence, this.#touchedBytes * fetchSizes.unprovenShare);
    return Math.max(0, bound - this.#unusedBytes);
  }

  /** Notes that these spans are fetched ahead. */
  enter({ first, last }: SpanRange): void {
    for (let span = first; span <= last; span++) {
      if (this.#state[span] !== UNKNOWN || this.#isHere(span)) continue;
      this.#state[span] = AHEAD;
      this.#unusedBytes += this.sizeOf({ first: span, last: span });
    }
  }
}
