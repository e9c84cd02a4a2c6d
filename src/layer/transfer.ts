import { OcifsError } from "../base/errors.js";
import { StepMarks } from "../base/steps.js";
import type { CompressedFile } from "../cache/compressed-file.js";
import type { ByteRange } from "../native/sparse.js";
import { fetchSizes } from "./fetch-sizes.js";
import type { Pace } from "./pace.js";
import { joinClose } from "./range-arithmetic.js";

export type TransferPriority = "demand" | "prefetch";

interface Waiter {
  readonly upTo: number;
  resolve(): void;
  reject(error: unknown): void;
}

/**
 * One contiguous part of a blob on its way from the source to a file: [begin, end), of which everything below `frontier`
 * has been written. Those who need bytes of it wait here and are woken when the frontier passes them, when the transfer is
 * cut before it reaches them, or when it fails.
 */
export class Transfer {
  readonly file: CompressedFile;
  readonly begin: number;
  /** Slows it down as long as it is a prefetch. */
  readonly pace: Pace | undefined;
  /** When whoever it was begun for began to wait, of `performance.now()`; undefined when nobody did, and when bytes have arrived. */
  waitingSinceMs: number | undefined;
  /** End of what is locked against other processes. */
  lockedEnd = 0;
  /** It has been sent, or its bytes arrive: whoever joins need not fear that it still waits for a connection. */
  flowing = false;
  /** There was no room for its bytes: who needs them does without the disk. */
  refused = false;
  /** What its bytes waited for so far. */
  readonly marks = new StepMarks();
  readonly #waiters = new Set<Waiter>();
  readonly #stop = new AbortController();
  readonly #promotion = new AbortController();
  #end: number;
  #frontier: number;
  #failure: { error: unknown } | undefined;

  constructor(
    file: CompressedFile,
    range: ByteRange,
    priority: TransferPriority,
    pace: Pace | undefined,
    waitingSinceMs?: number,
  ) {
    this.file = file;
    this.waitingSinceMs = waitingSinceMs;
    this.begin = range.begin;
    this.#end = range.end;
    this.#frontier = range.begin;
    this.pace = pace;
    if (priority === "demand") this.promote();
  }

  get end(): number {
    return this.#end;
  }

  get frontier(): number {
    return this.#frontier;
  }

  /** What is still to come. */
  get rest(): ByteRange {
    return { begin: this.#frontier, end: this.#end };
  }

  get priority(): TransferPriority {
    return this.#promotion.signal.aborted ? "demand" : "prefetch";
  }

  /** Fires when somebody waits for these bytes: no pace any more. */
  get promoted(): AbortSignal {
    return this.#promotion.signal;
  }

  /** Fires when the transfer was cut where it stands. */
  get stopped(): AbortSignal {
    return this.#stop.signal;
  }

  promote(): void {
    if (!this.#promotion.signal.aborted) this.#promotion.abort();
  }

  overlaps(range: ByteRange): boolean {
    return this.begin < range.end && this.#end > range.begin;
  }

  advance(frontier: number): void {
    this.#frontier = Math.min(frontier, this.#end);
    this.#wake((waiter) => waiter.upTo <= this.#frontier);
  }

  /** Nothing at or past `at` is fetched by this transfer any more, unless it was written already. */
  cut(at: number): void {
    if (at >= this.#end) return;
    this.#end = Math.max(at, this.#frontier);
    if (this.lockedEnd > this.#end) {
      this.file.unlock({ begin: this.#end, end: this.lockedEnd });
      this.lockedEnd = this.#end;
    }
    this.#wake((waiter) => waiter.upTo > this.#end);
    if (this.#end === this.#frontier)
      this.#stop.abort(new OcifsError("aborted", "fetch: its bytes are not wanted here"));
  }

  /** Cuts off what nobody waits for. */
  trim(): void {
    this.cut(Math.max(this.#frontier, ...[...this.#waiters].map((waiter) => waiter.upTo)));
  }

  /** It ended, where it was meant to or before. */
  finish(): void {
    this.#frontier = this.#end;
    this.#wake(() => true);
  }

  fail(error: unknown): void {
    this.#failure = { error };
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
  }

  /** Resolves when everything below `upTo` has been written; to false when it does not come this way. */
  reached(upTo: number, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#frontier >= upTo) return Promise.resolve(true);
    if (this.#end < upTo) return Promise.resolve(false);
    if (this.#failure) return Promise.reject(this.#failure.error);
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiters.delete(waiter);
        reject(new OcifsError("aborted", "read: cancelled while its bytes were fetched", { cause: signal?.reason }));
      };
      const waiter: Waiter = {
        upTo,
        resolve: () => {
          signal?.removeEventListener("abort", onAbort);
          resolve(this.#frontier >= upTo);
        },
        reject: (error) => {
          signal?.removeEventListener("abort", onAbort);
          reject(error);
        },
      };
      this.#waiters.add(waiter);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  #wake(which: (waiter: Waiter) => boolean): void {
    for (const waiter of this.#waiters) {
      if (!which(waiter)) continue;
      this.#waiters.delete(waiter);
      waiter.resolve();
    }
  }
}

/** How far behind a transfer may be to be worth waiting for; none when it is not certain that it has begun. */
export function patienceFor(transfer: Transfer): number {
  if (transfer.priority === "demand") return fetchSizes.maxRangeBytes;
  return transfer.flowing ? fetchSizes.joinAheadBytes : Number.NEGATIVE_INFINITY;
}

/**
 * Moves the end of a leg's lock ahead of what it writes. False when it has come to where another process is, or was:
 * those bytes are not fetched again.
 */
export function extendLock(transfer: Transfer, part: ByteRange, frontier: number): boolean {
  const { file, lockedEnd } = transfer;
  const next = { begin: lockedEnd, end: Math.min(part.end, transfer.end, lockedEnd + fetchSizes.lockBytes) };
  if (next.begin >= next.end || frontier + fetchSizes.lockBytes / 2 <= lockedEnd) return true;
  if (file.tryLock(next)) {
    const [hole, another] = joinClose(file.missing(next), []);
    if (hole?.begin === next.begin && hole.end === next.end && !another) {
      transfer.lockedEnd = next.end;
      return true;
    }
    file.unlock(next);
  }
  return frontier < lockedEnd;
}
