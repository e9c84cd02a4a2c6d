import { closeSync } from "node:fs";
import { isOcifsError, OcifsError, throwIfAborted } from "../base/errors.js";
import { readFully, writeFully } from "../cache/raw-file.js";
import { openZstdStream, type ZstdStream } from "../native/inflate.js";
import { SPAN_PRESENT, type SpanStore } from "../native/layer.js";
import { openMemoryFile } from "../native/sparse.js";
import { waitShared } from "../registry/abort.js";
import { fetchSizes } from "./fetch-sizes.js";
import type { RangeFetcher } from "./range-fetcher.js";
import { SpanProvider } from "./span-provider.js";
import { reserveSpan, type SpanRoom } from "./span-room.js";
import type { SpanTable } from "./span-table.js";

/** Compressed bytes that are decoded at a time. */
const PIECE_BYTES = 512 << 10;
/** Passes over one blob for one reader whose spans are evicted before it gets to them. */
const MAX_PASSES = 8;
/** Reads of a piece whose bytes were discarded meanwhile. */
const MAX_TRIES = 16;

export interface StreamSpansOptions extends SpanRoom {
  readonly store: SpanStore;
  readonly fetcher: RangeFetcher;
  /** Of the blob. */
  readonly sizeBytes: number;
  onDegraded(reason: string): void;
  /** Bytes of the cache were wrong and are fetched again. */
  onRefetch(span: number, reason: string): void;
}

interface Waiting {
  readonly first: number;
  readonly last: number;
  resolve(): void;
  reject(error: unknown): void;
}

/**
 * Spans of a blob that can only be decoded from its start (zstd): one pass makes them all, in order, whoever asked for which.
 * A reader goes on when its own are there.
 */
export class StreamSpans extends SpanProvider {
  readonly #o: StreamSpansOptions;
  readonly #waiting = new Set<Waiting>();
  #pass: Promise<void> | undefined;

  constructor(options: StreamSpansOptions) {
    super();
    this.#o = options;
  }

  override async ensure(first: number, last: number, options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    using _ = this.hold(first, last);
    for (let passes = 0; passes < MAX_PASSES; passes++) {
      throwIfAborted(options.signal, "read");
      throwIfAborted(this.closing.signal, "read");
      this.throwIfRefused();
      if (this.#present(first, last)) return;
      const arrived = new Promise<void>((resolve, reject) => this.#waiting.add({ first, last, resolve, reject }));
      this.#pass ??= this.#run();
      await waitShared(arrived, "read", options.signal);
    }
    throw new OcifsError(
      "busy",
      `layer: spans ${first} to ${last} were evicted before they could be read; give the cache more room`,
    );
  }

  override bring(span: number, signal: AbortSignal): Promise<void> {
    return this.ensure(span, span, { signal });
  }

  protected override ended(): Promise<unknown> {
    return Promise.resolve(this.#pass);
  }

  #present(first: number, last: number): boolean {
    return this.#o.store.absent(first, last).length === 0;
  }

  /** Ends without an error: who waits gets it. */
  async #run(): Promise<void> {
    try {
      const damage = await this.#decodeAll();
      if (damage !== undefined) {
        // What lies in the cache may have been damaged there; bytes fresh from the source decide.
        this.#o.onRefetch(0, damage.message);
        await this.#o.fetcher.discard({ begin: 0, end: this.#o.sizeBytes });
        const stillDamaged = await this.#decodeAll();
        if (stillDamaged) throw stillDamaged;
      }
      // Who finds his spans evicted again starts another pass.
      this.#settle(() => true);
    } catch (error) {
      for (const waiting of this.#waiting) waiting.reject(error);
      this.#waiting.clear();
    } finally {
      this.#pass = undefined;
    }
  }

  #settle(which: (waiting: Waiting) => boolean): void {
    for (const waiting of this.#waiting) {
      if (!which(waiting)) continue;
      this.#waiting.delete(waiting);
      waiting.resolve();
    }
  }

  /** Resolves to what is wrong with the bytes; a failure to get them is thrown. */
  async #decodeAll(): Promise<OcifsError | undefined> {
    const { table, sizeBytes } = this.#o;
    const scratch = openMemoryFile(0);
    const decoder = openZstdStream();
    const writer = new SpanWriter(table, (span, bytes) => this.#store(scratch, span, bytes));
    try {
      for (let at = 0; at < sizeBytes; ) {
        throwIfAborted(this.closing.signal, "read");
        this.throwIfRefused();
        const input = Buffer.allocUnsafe(Math.min(PIECE_BYTES, sizeBytes - at));
        await this.#read(input, at);
        at += input.length;
        await writer.decode(decoder, input);
      }
      decoder.finish();
      writer.finish();
      return undefined;
    } catch (error) {
      if (error === this.refusal) throw error;
      if (isOcifsError(error, "corrupt") || isOcifsError(error, "mismatch")) return error;
      throw error;
    } finally {
      decoder.close();
      closeSync(scratch);
    }
  }

  async #read(out: Buffer, begin: number): Promise<void> {
    const range = { begin, end: begin + out.length };
    const { signal } = this.closing;
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      const lease = await this.#o.fetcher.need(range, { growTo: begin + fetchSizes.maxRangeBytes, signal });
      try {
        await readFully(lease.fd, out, begin);
        if (lease.intact()) return;
      } finally {
        lease.release();
      }
    }
    throw new OcifsError("busy", "layer: its bytes are discarded as fast as they come; give the cache more room");
  }

  async #store(scratch: number, span: number, bytes: Uint8Array): Promise<void> {
    const { store, table } = this.#o;
    if (store.state(span) !== SPAN_PRESENT) {
      await writeFully(scratch, bytes, 0);
      const input = { span, gzip: false, fd: scratch, begin: 0, end: bytes.length, ...table.decodeInput(span) };
      using room = await reserveSpan(this.#o, span);
      const onlyMemory = room === undefined;
      while (await this.#isBusy({ ...input, digest: table.digest(span), discard: false, onlyMemory })) {
        await this.pauseWhileBusy();
      }
    }
    this.#settle(({ first, last }) => this.#present(first, last));
  }

  /** True when somebody else is at the span, or memory is full of others. */
  async #isBusy(input: Parameters<SpanStore["fill"]>[0]): Promise<boolean> {
    try {
      const degraded = await this.#o.store.fill(input);
      if (degraded !== undefined) this.#o.onDegraded(degraded);
      return false;
    } catch (error) {
      if (isOcifsError(error, "busy")) return true;
      throw error;
    }
  }
}

/** Cuts decoded bytes into spans. */
class SpanWriter {
  readonly #table: SpanTable;
  readonly #onSpan: (span: number, bytes: Uint8Array) => Promise<void>;
  readonly #buffer: Buffer;
  #span = 0;
  #filled = 0;

  constructor(table: SpanTable, onSpan: (span: number, bytes: Uint8Array) => Promise<void>) {
    this.#table = table;
    this.#onSpan = onSpan;
    // What follows the last span (padding that no index counts) is decoded as well, for its checksum, and dropped.
    this.#buffer = Buffer.allocUnsafe(Math.max(this.#sizeOf(0), 64 << 10));
  }

  async decode(decoder: ZstdStream, input: Uint8Array): Promise<void> {
    for (let at = 0; ; ) {
      const room = this.#buffer.subarray(this.#filled, this.#wanted());
      const { consumed, produced } = await decoder.step(input.subarray(at), room);
      at += consumed;
      this.#filled += produced;
      const full = produced === room.length;
      if (this.#filled === this.#wanted()) await this.#endSpan();
      if (!full && at === input.length) return;
      if (!full && consumed === 0) throw new OcifsError("internal", "zstd layer: the decoder makes no progress");
    }
  }

  finish(): void {
    if (this.#span < this.#table.spanCount) {
      throw new OcifsError("corrupt", `zstd layer: it ends in span ${this.#span} of ${this.#table.spanCount}`);
    }
  }

  #sizeOf(span: number): number {
    const { outStarts } = this.#table;
    return (outStarts[span + 1] ?? 0) - (outStarts[span] ?? 0);
  }

  #wanted(): number {
    return this.#span < this.#table.spanCount ? this.#sizeOf(this.#span) : this.#buffer.length;
  }

  async #endSpan(): Promise<void> {
    if (this.#span < this.#table.spanCount) {
      await this.#onSpan(this.#span, this.#buffer.subarray(0, this.#filled));
      this.#span += 1;
    }
    this.#filled = 0;
  }
}
