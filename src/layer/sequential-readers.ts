import { fetchSizes } from "./fetch-sizes.js";

interface Reader {
  nextSpan: number;
  growthBytes: number;
}

/**
 * Tells sequential use from random use of one layer, and how far to fetch ahead of it. A first read earns nothing; each
 * read that goes on where one stopped doubles the distance, up to a limit. Several readers are told apart.
 */
export class SequentialReaders {
  #readers: Reader[] = [];

  /** Notes a miss of spans [first, last]; returns how many compressed bytes beyond it are worth fetching. */
  note(first: number, last: number): number {
    // The kernel's own readahead may ask a little out of order.
    const known = this.#readers.find((r) => first >= r.nextSpan - 1 && first <= r.nextSpan + 1);
    if (known) {
      if (last + 1 > known.nextSpan) {
        known.nextSpan = last + 1;
        known.growthBytes = Math.min(
          fetchSizes.maxRangeBytes,
          Math.max(fetchSizes.firstGrowthBytes, known.growthBytes * 2),
        );
      }
      this.#readers = [known, ...this.#readers.filter((r) => r !== known)];
      return known.growthBytes;
    }
    this.#readers = [{ nextSpan: last + 1, growthBytes: 0 }, ...this.#readers].slice(0, fetchSizes.trackedReaders);
    return 0;
  }
}
