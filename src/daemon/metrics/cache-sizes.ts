import { treeUsage } from "../../native/sparse.js";

/** A scan looks at every file of a cache; whoever asks every few seconds gets the last one's answer. */
const KEPT_MS = 30_000;

/** Sizes of caches on disk, in bytes. */
export class CacheSizes {
  readonly #sizes = new Map<string, { readonly atMs: number; readonly bytes: Promise<number> }>();

  of(directory: string): Promise<number> {
    const found = this.#sizes.get(directory);
    const now = performance.now();
    if (found && now - found.atMs < KEPT_MS) return found.bytes;
    // A cache that is not there takes no room.
    const bytes = treeUsage(directory).catch(() => 0);
    this.#sizes.set(directory, { atMs: now, bytes });
    return bytes;
  }
}
