import type { TarEntry } from "../../src/tar/entry.js";
import { type TarEnd, TarWalker } from "../../src/tar/walker.js";

/**
 * Pushes a tar through the walker, cut at the given lengths (the last one repeats), and collects what it tells in `entries`, where it is also
 * after a refusal.
 */
export function readTar(
  tar: Uint8Array,
  cuts: readonly number[] = [],
  entries: TarEntry[] = [],
): { entries: TarEntry[]; end: TarEnd } {
  const walker = new TarWalker((entry) => entries.push(entry));
  let at = 0;
  for (let i = 0; at < tar.length; i++) {
    const length = cuts[Math.min(i, cuts.length - 1)] ?? tar.length;
    // A copy that is overwritten after: the walker must not keep views of what it was given.
    const piece = new Uint8Array(tar.subarray(at, at + length));
    walker.push(piece);
    piece.fill(0xaa);
    at += length;
  }
  return { entries, end: walker.finish() };
}

/** An entry with its byte arrays as latin1 text, easy to compare. */
export function plainEntry(entry: TarEntry): Record<string, unknown> {
  const text = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");
  return {
    ...entry,
    path: text(entry.path),
    linkPath: text(entry.linkPath),
    xattrs: Object.fromEntries(entry.xattrs.map((x) => [text(x.name), text(x.value)])),
  };
}
