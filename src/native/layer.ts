import { addon, awaitNative, callNative } from "./addon.js";

/** How one span's bytes are produced; see native/layer/span_fill.h. Offsets are bytes, -1 means "none". */
export interface FillInput {
  readonly span: number;
  /** False: the blob is the tar itself and [begin, end) are the span's bytes. */
  readonly gzip: boolean;
  /** Holds the compressed bytes [begin, end) at their offsets in the blob. */
  readonly fd: number;
  readonly begin: number;
  readonly end: number;
  readonly bits: number;
  readonly atHeader: boolean;
  readonly last: boolean;
  readonly zinfoFd: number;
  readonly windowOffset: number;
  readonly nextWindowOffset: number;
  /** sha256 of the uncompressed span. */
  readonly digest: Uint8Array | undefined;
  /** Only check; write and commit nothing. */
  readonly discard: boolean;
  /** Keep it in memory: there is no room for it on disk just now. */
  readonly onlyMemory: boolean;
}

/** Where the time of a fill went that succeeded. Times are those of CLOCK_MONOTONIC, in ms. */
export interface FillTimes {
  /** A pool thread took it. */
  readonly beganMs: number;
  /** All is decoded, written and checked; 0 when another process was faster. */
  readonly filledMs: number;
  /** How long of that was hashing. */
  readonly digestMs: number;
}

/** When a span on disk was last read or written: greater is later, comparable over all stores of this process. */
export interface SpanUse {
  readonly span: number;
  readonly used: number;
  readonly sizeBytes: number;
}

export interface SpanStoreStats {
  readonly spans: number;
  readonly presentSpans: number;
  /** Present in `data`, not only in memory. */
  readonly dataSpans: number;
  /** Grows with each eviction from `data`, by whatever process. */
  readonly generation: number;
  readonly presentBytes: number;
  readonly sizeBytes: number;
  /** False after the disk cache was given up (full, read-only). */
  readonly diskOk: boolean;
}

export const SPAN_ABSENT = 0;
export const SPAN_PRESENT = 1;
/** Set before an unclean reboot; to be checked before use. */
export const SPAN_SUSPECT = 2;

/** The native object, as the FUSE session wants it. */
export interface NativeSpanStore {
  state(span: number): number;
  present(span: number): boolean;
  absent(first: number, last: number): number[];
  stats(): SpanStoreStats;
  spanAt(offset: number): number;
  read(offset: number, into: Uint8Array): Promise<true | { first: number; last: number }>;
  fill(input: FillInput): Promise<FillTimes & { readonly degraded?: string }>;
  checkSuspect(span: number, digest: Uint8Array | undefined): Promise<boolean>;
  fail(first: number, last: number, errno: number): void;
  flushClean(): Promise<void>;
  retryDisk(): void;
  evict(first: number, last: number): Promise<void>;
  tryEvict(spans: readonly number[]): Promise<number>;
  leastRecent(count: number): number[];
  adopt(first: number, last: number): Promise<number>;
  wake(first: number, last: number): boolean;
  park(first: number, last: number): Promise<number>;
  lend(): number;
  watch(): Promise<number>;
  trustSuspect(): void;
  forgetMemory(): void;
  close(): void;
}

const native = addon as unknown as {
  SpanStore: new (options: {
    dataFd: number;
    spansFd: number;
    outStarts: Float64Array;
    partition: Uint8Array;
    bootId: Uint8Array;
    memoryBytes: number;
  }) => NativeSpanStore;
};

/**
 * The uncompressed bytes of one layer as far as they are known, and everyone who waits for more (native/layer).
 * Takes over both descriptors; -1 for both keeps spans in memory only.
 */
export class SpanStore {
  readonly handle: NativeSpanStore;

  constructor(options: {
    dataFd: number;
    spansFd: number;
    /** span count + 1 offsets of the uncompressed layer: 0, …, its size. */
    outStarts: Float64Array;
    /** sha256 that identifies the span table. */
    partition: Uint8Array;
    bootId: Uint8Array;
    memoryBytes: number;
  }) {
    this.handle = callNative(() => new native.SpanStore(options));
  }

  state(span: number): number {
    return callNative(() => this.handle.state(span));
  }
  present(span: number): boolean {
    return callNative(() => this.handle.present(span));
  }
  /** The spans of [first, last] that are not present, ascending. */
  absent(first: number, last: number): number[] {
    return callNative(() => this.handle.absent(first, last));
  }
  stats(): SpanStoreStats {
    return callNative(() => this.handle.stats());
  }
  spanAt(offset: number): number {
    return callNative(() => this.handle.spanAt(offset));
  }
  /** Fills `into` from `offset`, or tells which spans that needs, of which some are missing. */
  read(offset: number, into: Uint8Array): Promise<true | { first: number; last: number }> {
    return awaitNative(() => this.handle.read(offset, into));
  }
  /**
   * Decodes, checks, writes and commits a span. Resolves to the reason when the disk cache was given up on the way. `busy`
   * when it was evicted meanwhile or memory is full of spans being written: try again in a moment.
   */
  async fill(input: FillInput, onTimes?: (times: FillTimes) => void): Promise<string | undefined> {
    const { degraded, ...times } = await awaitNative(() => this.handle.fill(input));
    onTimes?.(times);
    return degraded;
  }
  /** Settles a suspect span by its digest; false (and absent) when it is wrong or no digest is known. */
  checkSuspect(span: number, digest: Uint8Array | undefined): Promise<boolean> {
    return awaitNative(() => this.handle.checkSuspect(span, digest));
  }
  /** Fails everyone who waits for any span of [first, last]. */
  fail(first: number, last: number, errno: number): void {
    callNative(() => this.handle.fail(first, last, errno));
  }
  /** Flushes the data file and marks the states clean, if no other process uses them. */
  flushClean(): Promise<void> {
    return awaitNative(() => this.handle.flushClean());
  }
  /**
   * Forgets spans [first, last] and gives their disk space back. Fills of them that run in this process fail with `busy`;
   * those of other processes are waited for.
   */
  evict(first: number, last: number): Promise<void> {
    return awaitNative(() => this.handle.evict(first, last));
  }
  /**
   * Forgets these spans without waiting: those that somebody waits for or writes, here or in another process, stay. Resolves to
   * the bytes given back to the disk.
   */
  tryEvict(spans: readonly number[]): Promise<number> {
    return awaitNative(() => this.handle.tryEvict(spans));
  }
  /** The least recently used spans on disk, oldest first, without those that parked reads wait for. */
  leastRecent(count: number): SpanUse[] {
    const flat = callNative(() => this.handle.leastRecent(count));
    const uses: SpanUse[] = [];
    for (let i = 0; i + 2 < flat.length; i += 3) {
      uses.push({ span: flat[i] ?? 0, used: flat[i + 1] ?? 0, sizeBytes: flat[i + 2] ?? 0 });
    }
    return uses;
  }
  /**
   * Makes spans of [first, last] present whose bytes the caller has put into the data file and checked, and nobody has written
   * to since. Spans that are present or that somebody writes or evicts are left alone. Resolves to how many became present.
   */
  adopt(first: number, last: number): Promise<number> {
    return awaitNative(() => this.handle.adopt(first, last));
  }
  /**
   * Wakes who waits for spans of [first, last] and has all it wants, whoever brought them. False when some of
   * [first, last] is missing.
   */
  wake(first: number, last: number): boolean {
    return callNative(() => this.handle.wake(first, last));
  }
  /**
   * Resolves to 0 when all of [first, last] is present, or to the errno with which somebody fails one of these spans, as a waiting read
   * of a session is told. By then they may have been evicted again. Keeps no process alive.
   */
  park(first: number, last: number): Promise<number> {
    return awaitNative(() => this.handle.park(first, last));
  }
  /**
   * A descriptor of `data`, the caller's, for a file system of the kernel's own; undefined when not all of it is there, or it
   * cannot be marked. No process punches or writes the file until the machine is started again.
   */
  lend(): number | undefined {
    const fd = callNative(() => this.handle.lend());
    return fd < 0 ? undefined : fd;
  }
  /**
   * A descriptor of `data`, the caller's, for a file system of the kernel's own whose reads raise events (native/fanotify). No
   * process punches the file until the machine is started again. `unsupported` when there is none that could be marked, `busy`
   * while another process does not leave it.
   */
  watch(): Promise<number> {
    return awaitNative(() => this.handle.watch());
  }
  /** Suspect spans are present: somebody knows that all of `data` was flushed and right before the reboot. */
  trustSuspect(): void {
    callNative(() => this.handle.trustSuspect());
  }
  /** Forgets spans that are in memory only, so that they can be written to `data` again. */
  forgetMemory(): void {
    callNative(() => this.handle.forgetMemory());
  }
  /** The next span is written to `data` again, after the disk was given up. */
  retryDisk(): void {
    callNative(() => this.handle.retryDisk());
  }
  close(): void {
    this.handle.close();
  }
}
