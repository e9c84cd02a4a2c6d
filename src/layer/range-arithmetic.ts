import type { ByteRange } from "../native/sparse.js";
import { fetchSizes } from "./fetch-sizes.js";

/** The parts of `ranges` (in order, disjoint) that none of `taken` covers. */
export function subtract(ranges: readonly ByteRange[], taken: readonly ByteRange[]): ByteRange[] {
  let left = [...ranges];
  for (const cut of taken) {
    left = left.flatMap((r) => {
      if (cut.end <= r.begin || cut.begin >= r.end) return [r];
      const out: ByteRange[] = [];
      if (r.begin < cut.begin) out.push({ begin: r.begin, end: cut.begin });
      if (cut.end < r.end) out.push({ begin: cut.end, end: r.end });
      return out;
    });
  }
  return left;
}

/** Joins ranges whose gap is small, unless something in the gap is on its way already. */
export function joinClose(ranges: readonly ByteRange[], flying: readonly ByteRange[]): ByteRange[] {
  const out: ByteRange[] = [];
  for (const range of ranges) {
    const before = out.at(-1);
    const blocked = before && flying.some((f) => f.begin < range.begin && f.end > before.end);
    if (before && !blocked && range.begin - before.end <= fetchSizes.joinGapBytes) {
      out[out.length - 1] = { begin: before.begin, end: range.end };
    } else {
      out.push(range);
    }
  }
  return out;
}
