import type { Hash } from "node:crypto";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { BlobSource } from "../blob/blob-source.js";
import { checkRange } from "../blob/range.js";
import type { CompressedFile } from "../cache/compressed-file.js";
import { readFully } from "../cache/raw-file.js";
import type { CacheRoom } from "../cache/room.js";
import type { ByteRange } from "../native/sparse.js";
import { algorithmOf, hasherOf } from "../oci/digest.js";
import { LinkedSignal, waitShared } from "../registry/abort.js";
import { fetchSizes } from "./fetch-sizes.js";
import type { Pace } from "./pace.js";
import { type NeedOptions, RangeFetcher } from "./range-fetcher.js";
import type { TransferPriority } from "./transfer.js";

export interface InFlightStreamOptions {
  /** What a follower gets, and holds, at a time. Default: 256 KiB. */
  readonly chunkBytes?: number;
  /**
   * What one request of the producer asks for at most. Default: everything up to the next byte that is there for demand (one
   * request suits every server), the pace's `requestBytes` or 8 MiB for prefetch (others wait no longer than that for a lock).
   */
  readonly requestBytes?: number;
  /** How the producer asks while nobody follows. Default: demand. */
  readonly priority?: TransferPriority;
  /** For prefetch: a bandwidth cap, and a hold to give way to others. */
  readonly pace?: Pace;
  /** Told of the end of what the producer has read in order: all below it is in the file. */
  readonly onProgress?: (bytes: number) => void;
  /** The file was found to be whole and right earlier (see cache/verified-marks.ts): it is not hashed as long as it stays whole. */
  readonly verified?: boolean;
}

const DEFAULT_CHUNK_BYTES = 256 << 10;

/** What the producer reads back and hashes at a time: fits a processor's cache, and keeps the event loop for well under 1 ms. */
const HASH_CHUNK_BYTES = 256 << 10;

/** Bytes that are gone between their arrival and their reading this often: an eviction wants them more than we do. */
const MAX_TRIES = 16;

/** One try to bring the blob to its end. It ends with everyone who follows it. */
class Run {
  readonly #end = new AbortController();
  readonly #left = new AbortController();
  failure: { error: unknown } | undefined;

  /** Fires when the run fails. */
  get ended(): AbortSignal {
    return this.#end.signal;
  }

  /** Fires after that, when those who followed it do not wait any more: what only they wanted is not wanted now. */
  get left(): AbortSignal {
    return this.#left.signal;
  }

  fail(error: unknown): void {
    if (this.failure) return;
    this.failure = { error };
    this.#end.abort(error);
    this.#left.abort(error);
  }

  throwIfFailed(): void {
    if (this.failure) throw this.failure.error;
  }
}

interface StartedRun {
  readonly state: Run;
  readonly done: Promise<void>;
}

/**
 * One blob on its way, front to back, into its cache file. A producer sees to it that everything comes and that size and
 * digest agree; any number of readers take from the file what is there, each at its own pace, and wait for what is not.
 *
 * It is built on RangeFetcher, which has everything a stream needs but the order and the digest: a transfer's frontier that
 * wakes whoever waits for it, single flight within the process and (by locks) between processes, resumption from whatever
 * blocks a sparse file holds. So the producer is a reader itself that hashes what it reads; a demand read of a mount and
 * a stream of the same blob share each transfer; and nobody waits for anybody: there is no queue between the producer and
 * a reader that a slow one could fill. The bytes of the file are the only state, and the verified prefix is hashed again
 * from there by whoever takes over.
 */
export class InFlightStream implements AsyncDisposable {
  readonly #fetcher: RangeFetcher;
  readonly #file: CompressedFile;
  readonly #ownsFetcher: boolean;
  readonly #options: InFlightStreamOptions;
  readonly #chunkBytes: number;
  readonly #closing = new AbortController();
  #run: StartedRun | undefined;
  #corrupt: { error: OcifsError } | undefined;
  #complete = false;
  readonly #reading = new Set<Promise<void>>();
  #followers = 0;
  /** Fired by the first follower while the producer waits as prefetch. */
  #unattended: AbortController | undefined;
  #hash: Hash;
  #hashedBytes = 0;
  #hashedAtDiscards = 0;

  /** A stream of its own. Takes over neither the source nor the file. */
  static open(
    options: InFlightStreamOptions & { source: BlobSource; file: CompressedFile; room?: CacheRoom },
  ): InFlightStream {
    // A disk that cannot be written ends the run, and a run says when it is complete.
    const events = { onDegraded: () => undefined, onComplete: () => undefined };
    return new InFlightStream(new RangeFetcher(options.source, options.file, events, options.room), true, options);
  }

  /** A stream that shares the transfers of a layer that is open for reading. Does not take over the fetcher; close it before. */
  static over(fetcher: RangeFetcher, options: InFlightStreamOptions = {}): InFlightStream {
    return new InFlightStream(fetcher, false, options);
  }

  private constructor(fetcher: RangeFetcher, ownsFetcher: boolean, options: InFlightStreamOptions) {
    const { source, disk } = fetcher;
    if (!disk) throw new OcifsError("usage", `stream of ${source.description}: it needs a cache file`);
    if (disk.sizeBytes !== source.sizeBytes) {
      throw new OcifsError(
        "mismatch",
        `stream of ${source.description}: the cache file has ${disk.sizeBytes} bytes, the blob ${source.sizeBytes}`,
      );
    }
    this.#chunkBytes = options.chunkBytes ?? DEFAULT_CHUNK_BYTES;
    if (!Number.isSafeInteger(this.#chunkBytes) || this.#chunkBytes < 1) {
      throw new OcifsError("usage", `stream of ${source.description}: chunks of ${this.#chunkBytes} bytes`);
    }
    this.#fetcher = fetcher;
    this.#file = disk;
    this.#ownsFetcher = ownsFetcher;
    this.#options = options;
    if (options.verified) {
      this.#complete = true;
      this.#run = { state: new Run(), done: Promise.resolve() };
    }
    this.#hash = hasherOf(source.digest);
  }

  get source(): BlobSource {
    return this.#fetcher.source;
  }

  get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  /** Everything below it is in the file, by whatever way it came. */
  get frontierBytes(): number {
    return this.#file.missing({ begin: 0, end: this.sizeBytes })[0]?.begin ?? this.sizeBytes;
  }

  /** True once all bytes are there and their digest is the blob's. */
  get complete(): boolean {
    return this.#complete;
  }

  /** Why the last run ended, if all bytes came and their digest is another. */
  get wrongDigest(): OcifsError | undefined {
    return this.#corrupt?.error;
  }

  /**
   * Resolves when the blob is complete: all bytes are in the file, size and digest agree. Starts the producer unless it
   * runs; after a failure it starts again, from what the file holds. The producer outlives whoever started it: `signal`
   * ends the waiting only. Fails with the source's error, `no-space` or `io` of the file, `mismatch` (the digest is another;
   * all bytes were discarded), `busy` (others discard bytes as they come) or `aborted` (closed).
   */
  async finish(signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal, this.#what);
    await waitShared(this.#start().done, this.#what, signal);
  }

  /**
   * The bytes [offset, offset + length), waiting for no others: also far ahead of the frontier, and without a producer. They
   * are as served; only the end of `follow` and of `finish` says that the digest agrees.
   */
  async read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    checkRange(offset, length, this.sizeBytes, this.#what);
    this.#throwIfClosed();
    // Bytes that came with a wrong digest are not asked for again before somebody starts the stream again.
    if (this.#corrupt && !this.#run) throw this.#corrupt.error;
    const state = this.#run?.state;
    using linked = new LinkedSignal(signal, this.#closing.signal, state?.ended);
    const out = Buffer.allocUnsafe(length);
    if (length > 0)
      await this.#readPiece(out, { begin: offset, end: offset + length }, state, { signal: linked.signal });
    return out;
  }

  /**
   * The bytes [from, to) in order, as fast as they are taken, with no more than one chunk in memory. Whoever follows to the
   * blob's end starts the producer, and gets the last chunk only when the digest agrees: an end without an error is the
   * right blob. Fails as `finish` does. With `part` it is a part also when it ends where the blob does: nothing is started
   * or withheld, for who puts the blob together from parts and checks it.
   */
  async *follow(
    options: { from?: number; to?: number; part?: boolean; signal?: AbortSignal } = {},
  ): AsyncGenerator<Uint8Array, void> {
    const { from = 0, to = this.sizeBytes, part = false, signal } = options;
    checkRange(from, to - from, this.sizeBytes, this.#what);
    this.#throwIfClosed();
    throwIfAborted(signal, this.#what);
    const run = to === this.sizeBytes && !part ? this.#start() : this.#run;
    using linked = new LinkedSignal(signal, this.#closing.signal, run?.state.ended);
    this.#followers += 1;
    this.#unattended?.abort();
    try {
      for (let at = from; at < to; ) {
        const end = Math.min(to, at + this.#chunkBytes);
        if (run && !part && end === this.sizeBytes) await waitShared(run.done, this.#what, signal);
        const chunk = Buffer.allocUnsafe(end - at);
        await this.#readChunk(chunk, at, run?.state, linked.signal);
        at = end;
        yield chunk;
      }
      if (run && !part && from === this.sizeBytes) await waitShared(run.done, this.#what, signal);
    } finally {
      this.#followers -= 1;
    }
  }

  /** Stops the producer; everyone who waits fails with `aborted`. The bytes stay in the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    const error = new OcifsError("aborted", `${this.#what}: it is closed`);
    this.#closing.abort(error);
    const run = this.#run;
    run?.state.fail(error);
    await Promise.allSettled([run?.done, ...this.#reading]);
    if (this.#ownsFetcher) await this.#fetcher[Symbol.asyncDispose]();
  }

  get #what(): string {
    return `stream of ${this.source.description}`;
  }

  #throwIfClosed(): void {
    throwIfAborted(this.#closing.signal, this.#what);
  }

  /** Joins the run that goes on or has succeeded, or begins one. */
  #start(): StartedRun {
    this.#throwIfClosed();
    if (this.#complete && !this.#isWhole()) {
      // Something discarded bytes since; what comes in their place is to be checked as well.
      this.#complete = false;
      this.#restartHash();
      this.#run = undefined;
    }
    if (this.#run) return this.#run;
    const state = new Run();
    this.#corrupt = undefined;
    this.#fetcher.retryDisk();
    const run = { state, done: this.#produce(state) };
    this.#run = run;
    run.done.catch((error: unknown) => {
      state.fail(error);
      if (this.#run === run) this.#run = undefined;
    });
    return run;
  }

  async #produce(state: Run): Promise<void> {
    // A whole blob is wanted: a beginning that gives way to the end would be fetched for ever.
    using _ = this.#fetcher.pin();
    const buffer = Buffer.allocUnsafe(Math.min(HASH_CHUNK_BYTES, this.sizeBytes));
    for (;;) {
      state.throwIfFailed();
      if (this.#hashedAtDiscards !== this.#fetcher.discards) this.#restartHash();
      if (this.#hashedBytes === this.sizeBytes) return this.#verify(state);
      const begin = this.#hashedBytes;
      const piece = this.#firstPiece({ begin, end: Math.min(this.sizeBytes, begin + HASH_CHUNK_BYTES) });
      const bytes = buffer.subarray(0, piece.end - begin);
      if (!(await this.#produceNext(bytes, piece, state))) continue;
      if (this.#hashedAtDiscards !== this.#fetcher.discards) continue;
      this.#hash.update(bytes);
      this.#hashedBytes = piece.end;
      this.#options.onProgress?.(piece.end);
    }
  }

  /** False when somebody began to follow meanwhile: what waited as prefetch is to be asked for as demand. */
  async #produceNext(bytes: Buffer, piece: ByteRange, state: Run): Promise<boolean> {
    const { priority = "demand", pace } = this.#options;
    const ahead = priority === "demand" ? this.sizeBytes : (pace?.requestBytes ?? fetchSizes.maxRangeBytes);
    const needs = {
      growTo: piece.begin + (this.#options.requestBytes ?? ahead),
      diskOnly: true,
      giveUp: state.left,
    };
    if (priority === "demand" || this.#followers > 0) {
      await this.#readPiece(bytes, piece, state, { ...needs, signal: state.ended });
      return true;
    }
    const unattended = new AbortController();
    using linked = new LinkedSignal(state.ended, unattended.signal);
    this.#unattended = unattended;
    try {
      await this.#readPiece(bytes, piece, state, { ...needs, signal: linked.signal, priority, pace });
      return true;
    } catch (error) {
      if (unattended.signal.aborted) return false;
      throw error;
    } finally {
      this.#unattended = undefined;
    }
  }

  async #verify(state: Run): Promise<void> {
    const { digest, description } = this.source;
    const got = `${algorithmOf(digest)}:${this.#hash.digest("hex")}`;
    if (got !== digest) {
      const error = new OcifsError("mismatch", `${description}: all of it was fetched and its digest is ${got}`);
      this.#corrupt = { error };
      // In this order: nobody must read the holes as if they were bytes.
      state.fail(error);
      await this.#fetcher.discard({ begin: 0, end: this.sizeBytes });
      throw error;
    }
    if (!this.#isWhole()) {
      this.#restartHash();
      throw new OcifsError("busy", `${this.#what}: bytes were discarded as others came; make room in the cache`);
    }
    this.#complete = true;
  }

  #isWhole(): boolean {
    return this.#hashedAtDiscards === this.#fetcher.discards && this.#file.has({ begin: 0, end: this.sizeBytes });
  }

  #restartHash(): void {
    this.#hash = hasherOf(this.source.digest);
    this.#hashedBytes = 0;
    this.#hashedAtDiscards = this.#fetcher.discards;
  }

  /** The part from the beginning of `range` that is either all there or all missing: what is there is not fetched again. */
  #firstPiece(range: ByteRange): ByteRange {
    const [hole] = this.#file.missing(range);
    if (!hole) return range;
    return { begin: range.begin, end: hole.begin > range.begin ? hole.begin : hole.end };
  }

  async #readChunk(chunk: Buffer, begin: number, state: Run | undefined, signal: AbortSignal): Promise<void> {
    const end = begin + chunk.length;
    for (let at = begin; at < end; ) {
      const piece = this.#firstPiece({ begin: at, end });
      const growTo = piece.begin + fetchSizes.maxRangeBytes;
      const part = chunk.subarray(at - begin, piece.end - begin);
      await this.#readPiece(part, piece, state, { growTo, diskOnly: true, signal });
      at = piece.end;
    }
  }

  /** What is being read is waited for at closing: the descriptor must not be another file's by then. */
  async #readPiece(out: Buffer, piece: ByteRange, state: Run | undefined, needs: NeedOptions): Promise<void> {
    const reading = this.#readIntact(out, piece, state, needs);
    this.#reading.add(reading);
    try {
      await reading;
    } finally {
      this.#reading.delete(reading);
    }
  }

  async #readIntact(out: Buffer, piece: ByteRange, state: Run | undefined, needs: NeedOptions): Promise<void> {
    try {
      for (let tries = 0; tries < MAX_TRIES; tries++) {
        const lease = await this.#fetcher.need(piece, needs);
        try {
          await readFully(lease.fd, out, piece.begin);
          state?.throwIfFailed();
          if (lease.intact()) return;
        } finally {
          lease.release();
        }
      }
    } catch (error) {
      // The run's failure, rather than that its end cancelled the wait.
      state?.throwIfFailed();
      this.#throwIfClosed();
      throw error;
    }
    throw new OcifsError("busy", `${this.#what}: its bytes are discarded as fast as they come; make room in the cache`);
  }
}
