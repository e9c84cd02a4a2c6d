import { setMaxListeners } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Step, StepMarks } from "../base/steps.js";
import type { BlobSource } from "../blob/blob-source.js";
import { alignToBlocks, type CompressedFile, isCacheWriteFailure } from "../cache/compressed-file.js";
import { type CacheRoom, unlimitedRoom } from "../cache/room.js";
import { noRoom, WriteBudget } from "../cache/write-budget.js";
import type { ByteRange } from "../native/sparse.js";
import { LinkedSignal } from "../registry/abort.js";
import { fetchSizes } from "./fetch-sizes.js";
import { type Lease, Leases } from "./leases.js";
import type { Pace } from "./pace.js";
import { joinClose, subtract } from "./range-arithmetic.js";
import { extendLock, patienceFor, Transfer, type TransferPriority } from "./transfer.js";
import { TransferMemory } from "./transfer-memory.js";

export type { Lease } from "./leases.js";

/** Between two looks at a range that another process is fetching. */
const OTHER_PROCESS_POLL_MS = 20;

/** Bytes that were written and are missing again this often: others want the room, or the file system does not keep them. */
const MAX_TRIES_DISK = 4;

export interface NeedOptions {
  /** A byte of the blob: the request may go on to there, as far as that is missing too. */
  readonly growTo?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Demand overtakes prefetch at the source, is never slowed down, and takes over from prefetch what it needs. Default: demand. */
  readonly priority?: TransferPriority | undefined;
  /** Told what the wait was for. */
  readonly marks?: StepMarks | undefined;
  /** For prefetch. */
  readonly pace?: Pace | undefined;
  /** Fail when the disk cannot be written or has no room, instead of going on in memory. */
  readonly diskOnly?: boolean | undefined;
  /** When it fires, what this call asked for is fetched no further than others wait for. */
  readonly giveUp?: AbortSignal | undefined;
}

export interface RangeFetcherEvents {
  /** The disk cache cannot be written any more; bytes are kept in memory from now on. */
  onDegraded(reason: string): void;
  /** The last missing byte of the blob has been written to the file on disk. */
  onComplete(): void;
  /** Bytes are about to be discarded; it is waited for. */
  onDiscard?(): Promise<void>;
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
  readonly #leases = new Leases();
  /** What calls of `need` wait for: given up by nobody here. */
  readonly #awaited = new Set<ByteRange>();
  readonly #room: CacheRoom;
  readonly #closing = new AbortController();
  readonly #memory: TransferMemory;
  #diskFailure: { error: unknown } | undefined;
  #discards = 0;
  #pins = 0;
  #completeReported = false;

  /** Takes over neither the source nor the file. Without a file everything is kept in bounded memory. */
  constructor(
    source: BlobSource,
    disk: CompressedFile | undefined,
    events: RangeFetcherEvents,
    room: CacheRoom = unlimitedRoom,
  ) {
    this.#source = source;
    this.#disk = disk;
    this.#events = events;
    this.#room = room;
    this.#memory = new TransferMemory(source);
    // One for each transfer: no leak, as Node would warn of.
    setMaxListeners(0, this.#closing.signal);
  }

  get source(): BlobSource {
    return this.#source;
  }

  get disk(): CompressedFile | undefined {
    return this.#disk;
  }

  /** How often bytes were discarded: what was read before the last time may have been wrong. */
  get discards(): number {
    return this.#discards;
  }

  /** Lets the next transfer try the disk again after it could not be written. */
  retryDisk(): void {
    this.#diskFailure = undefined;
  }

  /**
   * Resolves when all of `range` can be read from the lease's descriptor. Whoever waits for the same bytes shares their
   * transfer; demand that is far ahead of a long transfer gets one of its own, and the long one ends where that begins.
   */
  async need(range: ByteRange, options: NeedOptions = {}): Promise<Lease> {
    const wanted = alignToBlocks(range, this.#source.sizeBytes);
    this.#awaited.add(wanted);
    try {
      return await this.#bring(wanted, options);
    } finally {
      this.#awaited.delete(wanted);
    }
  }

  async #bring(wanted: ByteRange, options: NeedOptions): Promise<Lease> {
    const demand = options.priority !== "prefetch";
    const beganMs = performance.now();
    let roomLess = false;
    for (let tries = 0; ; ) {
      throwIfAborted(options.signal, "fetch");
      this.#throwIfClosed();
      const lease = this.#lease(wanted, options.diskOnly ?? false);
      if (lease === "busy") {
        await delay(OTHER_PROCESS_POLL_MS);
        continue;
      }
      if (lease) return lease;
      if (!demand && options.pace?.held) {
        using linked = new LinkedSignal(options.signal, this.#closing.signal);
        await options.pace.released(linked.signal);
        continue;
      }
      // Given up by others as fast as they come: this time without the disk.
      if (tries >= MAX_TRIES_DISK) roomLess = true;
      if (options.diskOnly && this.#disk && (this.#diskFailure || roomLess)) {
        throw this.#diskFailure?.error ?? noRoom(this.#source);
      }
      const onDisk = this.#disk && !this.#diskFailure && !roomLess ? this.#disk : undefined;
      const file = onDisk ?? this.#memory.open(wanted, tries);
      if (demand && this.#source.rangesSupported) this.#claim(wanted);
      this.#startTransfers(file, wanted, options, demand ? beganMs : undefined);
      const overlapping = [...this.#transfers].filter((t) => t.overlaps(wanted));
      // A rejection of any of them must be handled, also when another one rejected first.
      const reached = await Promise.all(overlapping.map((t) => t.reached(Math.min(t.end, wanted.end), options.signal)));
      for (const transfer of overlapping) options.marks?.adopt(transfer.marks);
      roomLess ||= overlapping.some((t) => t.refused);
      // What was left to others is no sign of trouble.
      if (reached.every(Boolean)) tries++;
    }
  }

  /**
   * Begins to fetch what is missing of `range` and nobody fetches, for nobody who waits: after all demand, and as far as the
   * cache's limit is no reason against it. Who needs some of it meanwhile shares it. When `giveUp` fires, the rest is fetched
   * no further than others wait for. After a failure those who share it ask for themselves. Nothing happens without a disk cache.
   * Resolves when what was begun has ended, one way or the other.
   */
  async ahead(range: ByteRange, giveUp: AbortSignal): Promise<void> {
    const disk = this.#disk;
    if (!disk || this.#diskFailure || !this.#source.rangesSupported) return;
    if (giveUp.aborted || this.#closing.signal.aborted) return;
    const { begin, end } = alignToBlocks(range, this.#source.sizeBytes);
    const flying = [...this.#transfers].map((t) => t.rest).filter((rest) => rest.begin < rest.end);
    const missing = disk.missing({ begin, end: Math.min(end, begin + this.#room.stepBytes) });
    const parts = joinClose(subtract(missing, flying), flying);
    await Promise.all(
      parts.map((part) => this.#start(disk, part, { priority: "prefetch", giveUp }, { forNobody: true })),
    );
  }

  /** The bytes of `range`, if they are all on disk: for reading what others may give up. */
  leaseIfThere(range: ByteRange): Lease | undefined {
    const lease = this.#disk && this.#leases.take(this.#disk, range);
    if (lease && lease !== "busy") return lease;
    // Others give it up, and nobody here has been told.
    this.#completeReported = false;
    return undefined;
  }

  /** Until disposal nothing is given up: for who needs all of the blob to be there at once. */
  pin(): Disposable {
    this.#pins += 1;
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (held) this.#pins -= 1;
        held = false;
      },
    };
  }

  /**
   * Gives the blocks inside `range` back to the disk, save those that anybody reads, waits for or fetches, here or in another
   * process; how many bytes. Waits for nobody.
   */
  giveUp(range: ByteRange): number {
    const disk = this.#disk;
    if (!disk || this.#pins > 0) return 0;
    const flying = [...this.#transfers].filter((t) => t.file === disk);
    const kept = [
      ...this.#leases.ranges,
      ...this.#awaited,
      ...flying.map((t) => ({ begin: t.frontier, end: Math.max(t.end, t.lockedEnd) })),
    ].map((r) => alignToBlocks(r, disk.sizeBytes));
    const freed = subtract(disk.present(range), kept).reduce((sum, part) => sum + disk.tryGiveUp(part), 0);
    if (freed > 0) this.#discarded();
    return freed;
  }

  /** Forgets the blocks of `range`, because they turned out to be wrong; waits for leases of them, which must see no holes. */
  async discard(range: ByteRange): Promise<void> {
    await this.#events.onDiscard?.();
    const blocks = alignToBlocks(range, this.#source.sizeBytes);
    for (;;) {
      if (this.#leases.overlaps(blocks)) await this.#leases.nextRelease();
      // All in one step: who looks at `discards` after reading sees either the bytes and the old count, or the new count.
      else if (!this.#disk || this.#disk.tryDiscard(blocks)) break;
      // Another process decodes from them.
      else await delay(OTHER_PROCESS_POLL_MS, undefined, { signal: this.#closing.signal });
    }
    this.#memory.file?.discard(range);
    this.#discarded();
  }

  /** True when every byte of the blob is in the file on disk. */
  get complete(): boolean {
    return this.#disk?.has({ begin: 0, end: this.#disk.sizeBytes }) ?? false;
  }

  /** Stops all transfers; waiting readers fail with `aborted`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new OcifsError("aborted", "fetch: the layer is being closed"));
    await Promise.allSettled(this.#running);
    await this.#memory[Symbol.asyncDispose]();
  }

  #throwIfClosed(): void {
    throwIfAborted(this.#closing.signal, "fetch");
  }

  #discarded(): void {
    this.#discards += 1;
    this.#completeReported = false;
  }

  #lease(wanted: ByteRange, diskOnly: boolean): Lease | "busy" | undefined {
    const fromDisk = this.#disk && this.#leases.take(this.#disk, wanted);
    if (fromDisk && fromDisk !== "busy") return fromDisk;
    const memory = diskOnly ? undefined : this.#memory.file;
    return (memory && this.#leases.take(memory, wanted)) ?? fromDisk;
  }

  /** Makes sure that what demand needs is not behind something slow: joins what is close to it, takes over the rest. */
  #claim(wanted: ByteRange): void {
    for (const transfer of this.#transfers) {
      if (!transfer.overlaps(wanted)) continue;
      if (wanted.begin - transfer.frontier <= patienceFor(transfer)) transfer.promote();
      else transfer.cut(wanted.begin);
    }
  }

  #startTransfers(
    file: CompressedFile,
    wanted: ByteRange,
    options: NeedOptions,
    waitingSinceMs: number | undefined,
  ): void {
    // What a transfer has written already may have been discarded since; it does not come again.
    const flying = [...this.#transfers].map((t) => t.rest).filter((rest) => rest.begin < rest.end);
    if (!this.#source.rangesSupported && file === this.#disk) {
      // The server sends everything from the start anyway: one pass from the first hole keeps all of it.
      const end = this.#source.sizeBytes;
      const [hole] = subtract(file.missing({ begin: 0, end }), flying);
      if (hole && hole.begin < wanted.end) {
        const next = Math.min(end, ...flying.map((f) => f.begin).filter((begin) => begin > hole.begin));
        void this.#start(file, { begin: hole.begin, end: next }, options, { waitingSinceMs });
      }
      return;
    }
    const free = subtract(file.missing(wanted), flying);
    const parts = joinClose(free, flying);
    const tail = parts.at(-1);
    // Neither memory nor a small cache is for reading far ahead: what is not read soon would be given up again.
    const growBytes = file === this.#disk ? this.#room.stepBytes : fetchSizes.maxRangeBytes;
    const growLimit = file === this.#disk && this.#pins > 0 ? this.#source.sizeBytes : wanted.end + growBytes;
    const growTo = Math.min(options.growTo ?? 0, growLimit);
    if (tail && tail.end === wanted.end && growTo > tail.end) {
      // As far as nothing of it is here or on its way.
      const ahead = alignToBlocks({ begin: tail.end, end: growTo }, this.#source.sizeBytes);
      const [next] = subtract(file.missing(ahead), flying);
      if (next?.begin === tail.end) parts[parts.length - 1] = { begin: tail.begin, end: next.end };
    }
    for (const part of parts) void this.#start(file, part, options, { waitingSinceMs });
  }

  /** The promise never rejects: who waits for bytes is told of a failure. */
  #start(
    file: CompressedFile,
    range: ByteRange,
    { priority = "demand", pace, giveUp }: NeedOptions,
    begun: { readonly forNobody?: boolean; readonly waitingSinceMs?: number | undefined },
  ): Promise<void> {
    const transfer = new Transfer(file, range, priority, pace, begun.waitingSinceMs);
    this.#transfers.add(transfer);
    const trim = () => transfer.trim();
    giveUp?.addEventListener("abort", trim, { once: true });
    const run = this.#run(transfer).then(
      () => {
        this.#transfers.delete(transfer);
        transfer.finish();
        this.#reportComplete();
      },
      (error: unknown) => {
        this.#transfers.delete(transfer);
        if (transfer.refused) {
          // The waiters look again, and get what is missing in memory.
          transfer.finish();
        } else if (file === this.#disk && isCacheWriteFailure(error)) {
          this.#degrade(error);
          // The waiters look again, and start over in memory.
          transfer.finish();
        } else if (begun.forNobody) {
          // Its time limit began before anybody waited: who does now has one of his own, which his wait so far is part of.
          transfer.cut(transfer.frontier);
        } else {
          transfer.fail(error);
        }
      },
    );
    this.#running.add(run);
    void run.finally(() => {
      this.#running.delete(run);
      giveUp?.removeEventListener("abort", trim);
    });
    return run;
  }

  /** Brings all of it, in one leg unless another process fetches parts of it too. */
  async #run(transfer: Transfer): Promise<void> {
    const { file } = transfer;
    if (file !== this.#disk) {
      // What a decoder reads right now stays.
      this.#memory.makeRoom(transfer, (old) => this.#leases.overlaps(old) || this.#transfers.has(old));
    }
    using linked = new LinkedSignal(this.#closing.signal, transfer.stopped);
    const { signal } = linked;
    for (;;) {
      const [hole] = file.missing(transfer.rest);
      transfer.advance(hole?.begin ?? transfer.end);
      if (!hole) return;
      const begin = hole.begin;
      const window = { begin, end: Math.min(transfer.end, begin + fetchSizes.lockBytes) };
      try {
        if (file.tryLock(window)) await this.#fetchLeg(transfer, window, signal);
        // Another process fetches some of it. Its progress is ours.
        else await delay(OTHER_PROCESS_POLL_MS, undefined, { signal });
      } catch (error) {
        this.#throwIfClosed();
        if (!transfer.stopped.aborted) throw error;
      }
    }
  }

  /** One request, under a lock that moves along with it: others need not wait for what is far ahead. */
  async #fetchLeg(transfer: Transfer, window: ByteRange, signal: AbortSignal): Promise<void> {
    const { file } = transfer;
    transfer.lockedEnd = window.end;
    try {
      // Between the look and the lock another process may have fetched some of it.
      const holes = file.missing(transfer.rest);
      const { rangesSupported } = this.#source;
      // Without ranges a second request would begin from 0 again: all holes in one, with what lies between.
      const part = rangesSupported
        ? joinClose(holes, [])[0]
        : { begin: holes[0]?.begin ?? window.end, end: holes.at(-1)?.end ?? window.end };
      if (!part || part.begin >= window.end) return;
      transfer.advance(part.begin);
      const writer = file.writer(part);
      using budget = new WriteBudget(file === this.#disk ? this.#room : unlimitedRoom);
      const onStart = () => {
        transfer.flowing = true;
      };
      const { waitingSinceMs } = transfer;
      const waiting = waitingSinceMs === undefined ? {} : { waitingSinceMs };
      const onStep = (step: Step) => transfer.marks.mark(step);
      const options = { signal, priority: transfer.priority, onStart, onStep, ...waiting };
      for await (const chunk of this.#source.fetchRange(part.begin, part.end - part.begin, options)) {
        transfer.flowing = true;
        transfer.waitingSinceMs = undefined;
        if (!(await budget.spend(chunk.length, part.end - writer.frontier))) {
          transfer.refused = true;
          throw noRoom(this.#source);
        }
        await writer.append(chunk);
        transfer.marks.mark("body");
        if (writer.frontier >= Math.min(part.end, transfer.end)) this.#reportComplete();
        transfer.advance(writer.frontier);
        if (writer.frontier >= transfer.end && transfer.end < part.end) return;
        if (rangesSupported && !extendLock(transfer, part, writer.frontier)) return;
        if (await this.#givesWay(transfer, chunk.length, signal)) return;
      }
      if (writer.frontier !== part.end) {
        throw new OcifsError(
          "network",
          `${this.#source.description}: the answer ended at byte ${writer.frontier} instead of ${part.end}`,
        );
      }
    } finally {
      if (transfer.lockedEnd > window.begin) file.unlock({ begin: window.begin, end: transfer.lockedEnd });
    }
  }

  /** Keeps a prefetch to its pace. True when it is held: what it holds itself, a lock and a connection, is then given back. */
  async #givesWay(transfer: Transfer, bytes: number, signal: AbortSignal): Promise<boolean> {
    const { pace } = transfer;
    if (!pace || transfer.promoted.aborted) return false;
    using until = new LinkedSignal(signal, transfer.promoted);
    await pace.spend(bytes, until.signal);
    if (!pace.held || transfer.promoted.aborted || transfer.frontier === transfer.end) return false;
    if (this.#source.rangesSupported) {
      transfer.cut(transfer.frontier);
      return true;
    }
    await pace.released(until.signal);
    return false;
  }

  #degrade(error: unknown): void {
    if (this.#diskFailure) return;
    this.#diskFailure = { error };
    this.#events.onDegraded(error instanceof Error ? error.message : String(error));
  }

  #reportComplete(): void {
    if (this.#completeReported || !this.complete) return;
    this.#completeReported = true;
    this.#events.onComplete();
  }
}
