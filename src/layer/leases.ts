import type { CompressedFile } from "../cache/compressed-file.js";
import type { ByteRange } from "../native/sparse.js";
import { subtract } from "./range-arithmetic.js";

/** Compressed bytes that are there and stay until `release` is called. */
export interface Lease {
  readonly fd: number;
  /** True when they are still there: ask after reading where other processes may discard them, since a hole reads as zeros. */
  intact(): boolean;
  release(): void;
}

/** Who reads which bytes of one blob's files. What is on disk is locked against other processes as well. */
export class Leases {
  readonly #held = new Map<Lease, { readonly file: CompressedFile; readonly range: ByteRange }>();
  readonly #waiters: (() => void)[] = [];

  get ranges(): ByteRange[] {
    return [...this.#held.values()].map(({ range }) => range);
  }

  overlaps(range: ByteRange): boolean {
    return this.ranges.some((held) => held.begin < range.end && held.end > range.begin);
  }

  /** Undefined when the bytes are not all there; "busy" while another process gives some of them up. */
  take(file: CompressedFile, range: ByteRange): Lease | "busy" | undefined {
    if (range.begin < range.end) {
      if (!file.has(range)) return undefined;
      if (!file.tryReadLock(range)) return "busy";
    }
    let open = true;
    const lease: Lease = {
      fd: file.fd,
      intact: () => file.has(range),
      release: () => {
        if (open) this.#release(lease, file, range);
        open = false;
      },
    };
    this.#held.set(lease, { file, range });
    // Between the look and the lock they may have gone.
    if (file.has(range)) return lease;
    lease.release();
    return undefined;
  }

  /** Resolves at the next release of any lease. */
  async nextRelease(): Promise<void> {
    await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  #release(lease: Lease, file: CompressedFile, range: ByteRange): void {
    this.#held.delete(lease);
    // All leases of a file share one lock, which is a set of bytes: what others still need stays locked.
    const others = [...this.#held.values()].filter((held) => held.file === file).map((held) => held.range);
    for (const part of subtract([range], others)) if (part.begin < part.end) file.readUnlock(part);
    for (const resolve of this.#waiters.splice(0)) resolve();
  }
}
