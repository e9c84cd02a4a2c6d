import { setTimeout as delay } from "node:timers/promises";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { BlobSource } from "../blob/blob-source.js";
import { alignToBlocks, CompressedFile, isCacheWriteFailure } from "../cache/compressed-file.js";
import type { ByteRange } from "../native/sparse.js";
import { fetchSizes } from "./fetch-sizes.js";

/** Between two looks at a range that another process is fetching. */
const OTHER_PROCESS_POLL_MS = 20;

/** Bytes that were written and are missing again this often: the file system does not keep them, or others want the memory. */
const MAX_TRIES_DISK = 4;
const MAX_TRIES = 16;

/** Compressed bytes that are there and stay until `release` is called. */
export interface Lease {
  readonly fd: number;
  release(): void;
}

interface Waiter {
  readonly upTo: number;
  resolve(): void;
  reject(error: unknown): void;
}

/** One contiguous part of the blob on its way from the source to the file. */
class Transfer {
  frontier: number;
  readonly #waiters = new Set<Waiter>();
  #failure: { error: unknown } | undefined;

  constructor(readonly range: ByteRange) {
    this.frontier = range.begin;
  }

  advance(frontier: number): void {
    this.frontier = frontier;
    for (const waiter of this.#waiters) {
      if (waiter.upTo > frontier) continue;
      this.#waiters.delete(waiter);
      waiter.resolve();
    }
  }

  fail(error: unknown): void {
    this.#failure = { error };
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
  }

  /** Resolves when everything below `upTo` has been written. */
  reached(upTo: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.frontier >= upTo) return Promise.resolve();
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
          resolve();
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
}

export interface RangeFetcherEvents {
  /** The disk cache cannot be written any more; bytes are kept in memory from now on. */
  onDegraded(reason: string): void;
  /** The last missing byte of the blob has been written to the file on disk. */
  onComplete(): void;
}

/**
 * Brings compressed ranges of one blob into the cache file: each byte is fetched once, however many ask for it, in this
 * process and in others. A cancelled reader does not stop a transfer that others may use.
 */
export class RangeFetcher implements AsyncDisposable {
  readonly #source: BlobSource;
  readonly #disk: CompressedFile | undefined;
  readonly #events: RangeFetcherEvents;
  readonly #transfers = new Set<Transfer>();
  readonly #running = new Set<Promise<void>>();
  readonly #leases = new Map<Lease, ByteRange>();
  readonly #releaseWaiters: (() => void)[] = [];
  readonly #closing = new AbortController();
  #memory: CompressedFile | undefined;
  #memoryRanges: ByteRange[] = [];
  #diskFailed = false;
  #completeReported = false;

  /** Takes over neither the source nor the file. Without a file everything is kept in bounded memory. */
  constructor(source: BlobSource, disk: CompressedFile | undefined, events: RangeFetcherEvents) {
    this.#source = source;
    this.#disk = disk;
    this.#events = events;
  }

  /**
   * Resolves when all of `range` can be read from the lease's descriptor. When something has to be fetched, the request may
   * go on to `growTo` (a byte of the blob), as far as that is missing too.
   */
  async need(range: ByteRange, options: { growTo?: number; signal?: AbortSignal | undefined } = {}): Promise<Lease> {
    const wanted = alignToBlocks(range, this.#source.sizeBytes);
    for (let tries = 0; ; tries++) {
      throwIfAborted(options.signal, "fetch");
      this.#throwIfClosed();
      const lease = this.#lease(wanted);
      if (lease) return lease;
      if (tries >= MAX_TRIES_DISK && this.#disk && !this.#diskFailed) {
        this.#degrade(new OcifsError("io", "cache file: bytes that were written to it are missing again"));
      }
      const file = this.#disk && !this.#diskFailed ? this.#disk : this.#openMemory();
      if (!file.onDisk) this.#checkMemory(wanted, tries);
      this.#startTransfers(file, wanted, Math.max(wanted.end, options.growTo ?? 0));
      const overlapping = [...this.#transfers].filter((t) => t.range.begin < wanted.end && t.range.end > wanted.begin);
      // A rejection of any of them must be handled, also when another one rejected first.
      await Promise.all(overlapping.map((t) => t.reached(Math.min(t.range.end, wanted.end), options.signal)));
    }
  }

  /** Forgets the blocks of `range`, because they turned out to be wrong; waits for leases of them, which must see no holes. */
  async discard(range: ByteRange): Promise<void> {
    const blocks = alignToBlocks(range, this.#source.sizeBytes);
    while ([...this.#leases.values()].some((lease) => lease.begin < blocks.end && lease.end > blocks.begin)) {
      await new Promise<void>((resolve) => this.#releaseWaiters.push(resolve));
    }
    this.#disk?.discard(range);
    this.#memory?.discard(range);
    this.#completeReported = false;
  }

  /** True when every byte of the blob is in the file on disk. */
  get complete(): boolean {
    return this.#disk?.has({ begin: 0, end: this.#disk.sizeBytes }) ?? false;
  }

  /** Stops all transfers; waiting readers fail with `aborted`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new OcifsError("aborted", "fetch: the layer is being closed"));
    await Promise.allSettled(this.#running);
    await this.#memory?.[Symbol.asyncDispose]();
    this.#memory = undefined;
  }

  #throwIfClosed(): void {
    throwIfAborted(this.#closing.signal, "fetch");
  }

  #lease(wanted: ByteRange): Lease | undefined {
    const file = [this.#disk, this.#memory].find((f) => f?.has(wanted));
    if (!file) return undefined;
    const release = () => {
      this.#leases.delete(lease);
      for (const resolve of this.#releaseWaiters.splice(0)) resolve();
    };
    const lease: Lease = { fd: file.fd, release };
    this.#leases.set(lease, wanted);
    return lease;
  }

  #startTransfers(file: CompressedFile, wanted: ByteRange, growTo: number): void {
    // What a transfer has written already may have been discarded since; it does not come again.
    const flying = [...this.#transfers].map((t) => ({ begin: t.frontier, end: t.range.end }));
    if (!this.#source.rangesSupported && file.onDisk) {
      // The server sends everything from the start anyway: one pass from the first hole keeps all of it.
      const end = this.#source.sizeBytes;
      const [hole] = subtract(file.missing({ begin: 0, end }), flying);
      if (hole && hole.begin < wanted.end) {
        const next = Math.min(end, ...flying.map((f) => f.begin).filter((begin) => begin > hole.begin));
        this.#start(file, { begin: hole.begin, end: next });
      }
      return;
    }
    const free = subtract(file.missing(wanted), flying);
    const parts = joinClose(free, flying);
    const tail = parts.at(-1);
    if (tail && tail.end === wanted.end && growTo > tail.end) {
      // As far as nothing of it is here or on its way.
      const ahead = alignToBlocks({ begin: tail.end, end: growTo }, this.#source.sizeBytes);
      const [next] = subtract(file.missing(ahead), flying);
      if (next?.begin === tail.end) parts[parts.length - 1] = { begin: tail.begin, end: next.end };
    }
    for (const part of parts) this.#start(file, part);
  }

  #start(file: CompressedFile, range: ByteRange): void {
    const transfer = new Transfer(range);
    this.#transfers.add(transfer);
    const run = this.#run(file, transfer).then(
      () => {
        this.#transfers.delete(transfer);
        transfer.advance(range.end);
        this.#reportComplete();
      },
      (error: unknown) => {
        this.#transfers.delete(transfer);
        if (file.onDisk && isCacheWriteFailure(error)) {
          this.#degrade(error);
          // The waiters look again, and start over in memory.
          transfer.advance(range.end);
        } else {
          transfer.fail(error);
        }
      },
    );
    this.#running.add(run);
    void run.finally(() => this.#running.delete(run));
  }

  async #run(file: CompressedFile, transfer: Transfer): Promise<void> {
    const { range } = transfer;
    const signal = this.#closing.signal;
    if (!file.onDisk) this.#makeRoom(range);
    while (!file.tryLock(range)) {
      // Another process fetches some of it. Its progress is ours.
      const [hole] = file.missing(range);
      transfer.advance(hole?.begin ?? range.end);
      if (!hole) return;
      await delay(OTHER_PROCESS_POLL_MS, undefined, { signal }).catch(() => this.#throwIfClosed());
    }
    try {
      for (const part of joinClose(file.missing(range), [])) {
        transfer.advance(part.begin);
        const writer = file.writer(part);
        for await (const chunk of this.#source.fetchRange(part.begin, part.end - part.begin, { signal })) {
          await writer.append(chunk);
          transfer.advance(writer.frontier);
        }
        if (writer.frontier !== part.end) {
          throw new OcifsError(
            "network",
            `${this.#source.description}: the answer ended at byte ${writer.frontier} instead of ${part.end}`,
          );
        }
      }
    } finally {
      file.unlock(range);
    }
  }

  #degrade(error: unknown): void {
    if (this.#diskFailed) return;
    this.#diskFailed = true;
    this.#events.onDegraded(error instanceof Error ? error.message : String(error));
  }

  #checkMemory(wanted: ByteRange, tries: number): void {
    const bytes = wanted.end - wanted.begin;
    if (bytes > fetchSizes.memoryBytes) {
      throw new OcifsError(
        "limit",
        `${this.#source.description}: ${bytes} bytes are wanted at once and there is no disk cache; the limit of memory is ${fetchSizes.memoryBytes}`,
      );
    }
    if (tries >= MAX_TRIES) {
      throw new OcifsError(
        "io",
        `${this.#source.description}: bytes ${wanted.begin} to ${wanted.end} were given up ${tries} times before they could be read; give the cache a disk with space`,
      );
    }
  }

  #openMemory(): CompressedFile {
    this.#memory ??= CompressedFile.openInMemory(this.#source.sizeBytes);
    return this.#memory;
  }

  /** Keeps what memory holds of transfers under its limit, oldest first; what a decoder reads right now stays. */
  #makeRoom(range: ByteRange): void {
    this.#memoryRanges.push(range);
    const used = () => this.#memoryRanges.reduce((sum, r) => sum + r.end - r.begin, 0);
    for (const old of [...this.#memoryRanges]) {
      if (used() <= fetchSizes.memoryBytes || old === range) break;
      const leased = [...this.#leases.values()].some((l) => l.begin < old.end && l.end > old.begin);
      const flying = [...this.#transfers].some((t) => t.range === old);
      if (leased || flying) continue;
      this.#memory?.discard(old);
      this.#memoryRanges = this.#memoryRanges.filter((r) => r !== old);
    }
  }

  #reportComplete(): void {
    if (this.#completeReported || !this.complete) return;
    this.#completeReported = true;
    this.#events.onComplete();
  }
}

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
