import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { type Problem, problemNow } from "../base/problem.js";
import type { BlobSource } from "../blob/blob-source.js";
import { bootId, type CacheDirectory } from "../cache/cache-directory.js";
import { CONTENT_PREFIX } from "../cache/cached-blobs.js";
import { unlimitedRoom } from "../cache/room.js";
import { SpanStore } from "../native/layer.js";
import type { Digest } from "../oci/digest.js";
import { LinkedSignal } from "../registry/abort.js";
import { CachedLayerDevice } from "./cached-layer-device.js";
import { DiskWatch } from "./disk-watch.js";
import { fetchSizes } from "./fetch-sizes.js";
import { LayerEviction } from "./layer-eviction.js";
import { type LayerFiles, openLayerFiles } from "./layer-files.js";
import { type FillOutcome, LayerFill } from "./layer-fill.js";
import { type FilledNow, LayerMarks } from "./layer-marks.js";
import type { Pace } from "./pace.js";
import { RangeFetcher } from "./range-fetcher.js";
import { SpanFetcher } from "./span-fetcher.js";
import type { SpanProvider } from "./span-provider.js";
import type { SpanTable } from "./span-table.js";
import { StreamSpans } from "./stream-spans.js";
import { digestOfBlob } from "./whole-blob.js";

/** What opening a layer adds to the cache beside its states: directories, names, the header. */
const OPENING_BYTES = 32 << 10;

/** A layer's files, and what is known of them; no marks when they cannot be read or written. */
type DiskCache = LayerFiles & { readonly marks: LayerMarks | undefined };

export interface OpenLayerOptions {
  readonly source: BlobSource;
  readonly table: SpanTable;
  readonly cache: CacheDirectory;
  /** See SpanFetcherOptions. */
  readonly checkWindows: boolean;
  /** Check the blob's digest once all of it is in the cache. */
  readonly checkBlob: boolean;
  /** Of the whole uncompressed tar, where the index recorded it; the table then maps all of the tar. */
  readonly tarDigest?: Digest;
  /** The image's own word for that digest, asked for by a fill when the index has none. */
  readonly fetchDiffId?: (signal: AbortSignal) => Promise<Digest | undefined>;
  /** What was filled and checked before this layer was opened, by this process. */
  readonly filledNow?: FilledNow;
  readonly log: Log;
  /** For tests: see DiskWatch. */
  readonly diskLookMs?: number;
}

export interface LayerStats {
  readonly cachedBytes: number;
  readonly spans: number;
  readonly cachedSpans: number;
  readonly sizeBytes: number;
  readonly cache: "disk" | "memory";
  /** All of it is decoded in the cache and its digest is right: it needs no network any more. */
  readonly complete: boolean;
  /** All of the blob is in the cache and its digest is right. */
  readonly blobVerified: boolean;
  /** What is wrong with this layer. */
  readonly problem: Problem | undefined;
}

/** One layer ready for reading: its source, its cache files and what fills them. */
export class OpenLayer implements AsyncDisposable {
  readonly source: BlobSource;
  readonly table: SpanTable;
  readonly store: SpanStore;
  readonly spans: SpanProvider;
  readonly device: CachedLayerDevice;
  readonly #o: OpenLayerOptions;
  readonly #fetcher: RangeFetcher;
  readonly #disk: DiskCache | undefined;
  readonly #eviction: Disposable | undefined;
  readonly #log: Log;
  readonly #closing = new AbortController();
  /** All bytes of the blob that are in the cache came from the source since this layer was opened. */
  #fresh: boolean;
  #filling: Promise<FillOutcome> | undefined;
  #checking: Promise<void> | undefined;
  #closed: Promise<void> | undefined;
  #problem: Problem | undefined;
  #diskProblem: Problem | undefined;
  readonly #diskWatch: DiskWatch | undefined;

  private constructor(o: OpenLayerOptions, store: SpanStore, disk: DiskCache | undefined) {
    this.source = o.source;
    this.table = o.table;
    this.store = store;
    this.#o = o;
    this.#disk = disk;
    this.#log = o.log;
    if (disk) this.#diskWatch = new DiskWatch(disk.directory, () => this.#diskIsBack(), o.diskLookMs);
    this.#fresh = disk?.compressed.presentBytes() === 0;
    const room = disk?.use.room(o.cache.room) ?? unlimitedRoom;
    const events = {
      onDegraded: (reason: string) => this.#degraded(reason),
      // A fill hashes what it brings.
      onComplete: () => {
        if (!this.#filling) void this.checkWholeBlob();
      },
      onDiscard: async () => {
        if (disk?.marks?.blobVerified) await disk.marks.clearBlob();
      },
    };
    this.#fetcher = new RangeFetcher(o.source, disk?.compressed, events, room);
    const spans = {
      table: o.table,
      store,
      fetcher: this.#fetcher,
      room,
      onDegraded: (reason: string) => this.#degraded(reason),
      onRefetch: (span: number, reason: string) =>
        this.#log.warn("cached bytes are wrong, fetching them again", { span, reason }),
      onNoRoom: () => this.#log.debug("the cache's limit leaves no room; a span stays in memory"),
    };
    this.spans =
      o.table.encoding === "zstd"
        ? new StreamSpans({ ...spans, sizeBytes: o.source.sizeBytes })
        : new SpanFetcher({ ...spans, checkWindows: o.checkWindows });
    this.device = new CachedLayerDevice(store, this.spans);
    // Without marks that can be taken away nothing may be given up.
    if (disk?.marks) {
      const { directory, marks } = disk;
      const eviction = new LayerEviction({
        directory,
        marks,
        table: o.table,
        store,
        fetcher: this.#fetcher,
        spans: this.spans,
      });
      this.#eviction = o.cache.room.register(eviction);
    }
  }

  /** Takes over the source, also when it fails. A cache that cannot be used costs speed, not the layer. */
  static async open(o: OpenLayerOptions): Promise<OpenLayer> {
    const common = {
      outStarts: o.table.outStarts,
      partition: o.table.partition,
      bootId: await bootId(),
      memoryBytes: fetchSizes.memoryBytes,
    };
    let reason = o.cache.unusable ?? "unknown";
    if (o.cache.unusable === undefined) {
      try {
        using room = await o.cache.room.reserve(OPENING_BYTES + o.table.spanCount);
        if (!room) throw new OcifsError("no-space", "the cache's limit leaves no room for one layer more");
        const { files, fds } = await openLayerFiles(o.cache, o.source, o.table);
        try {
          const store = new SpanStore({ ...common, ...fds });
          const marks = await openMarks(o, files, store);
          return new OpenLayer(o, store, { ...files, marks });
        } catch (error) {
          await files[Symbol.asyncDispose]();
          throw error;
        }
      } catch (error) {
        reason = messageOf(error);
      }
    }
    const layer = new OpenLayer(o, new SpanStore({ ...common, dataFd: -1, spansFd: -1 }), undefined);
    layer.#degraded(reason);
    return layer;
  }

  /** All of it is decoded in the cache and its digest is right. */
  get complete(): boolean {
    return this.#disk?.marks?.tarVerified ?? false;
  }

  /** Where the decoded tar and what is derived from it are kept; undefined when there is no disk cache. */
  get files(): { readonly dataPath: string; readonly contentPath: string } | undefined {
    if (!this.#disk) return undefined;
    const { directory, key } = this.#disk;
    return { dataPath: join(directory, `data-${key}`), contentPath: join(directory, `${CONTENT_PREFIX}${key}`) };
  }

  /** The digest that the whole tar must have, from the index or else the image; undefined when neither tells. */
  async tarDigest(signal: AbortSignal): Promise<Digest | undefined> {
    return this.#o.tarDigest ?? (await this.#o.fetchDiffId?.(signal));
  }

  /** Compressed bytes that are not in the cache; 0 of a complete layer, which needs none. */
  get bytesLeft(): number {
    if (this.complete) return 0;
    return this.source.sizeBytes - (this.#disk?.compressed.presentBytes() ?? 0);
  }

  /**
   * A descriptor, the caller's, of the layer's tar for a file system of the kernel's own: see SpanStore.lend. Undefined when the layer
   * is not complete, and when a limit of the cache may want its room back: what was lent is never given up in parts.
   */
  lend(): number | undefined {
    return this.complete && !this.#o.cache.limited ? this.store.lend() : undefined;
  }

  /**
   * A descriptor, the caller's, of the file that the layer's tar is filled in, for a file system of the kernel's own: see SpanStore.watch.
   * `unsupported` without a cache on disk, and when a limit of the cache may want its room back.
   */
  async watch(): Promise<number> {
    if (!this.#disk) throw new OcifsError("unsupported", this.#diskProblem?.sentence ?? "there is no disk cache");
    if (!this.#o.cache.limited) return await this.store.watch();
    throw new OcifsError(
      "unsupported",
      "with cachesize= a part of a layer may be given up, which the kernel would not notice",
    );
  }

  stats(): LayerStats {
    const spans = this.store.stats();
    return {
      cachedBytes: this.#disk?.compressed.presentBytes() ?? 0,
      spans: spans.spans,
      cachedSpans: spans.presentSpans,
      sizeBytes: spans.sizeBytes,
      cache: this.#disk && spans.diskOk ? "disk" : "memory",
      complete: this.complete,
      blobVerified: this.#disk?.marks?.blobVerified ?? false,
      problem: this.#problem ?? this.#diskProblem,
    };
  }

  /**
   * Makes the layer complete, slowly: see LayerFill for what that means and what is thrown. A layer whose blob or tar is not
   * what its digest says is refused from then on. One fill at a time.
   */
  async fill(pace: Pace, signal: AbortSignal): Promise<FillOutcome> {
    if (this.#filling) throw new OcifsError("busy", `fill of ${this.source.digest}: it is being filled`);
    using linked = new LinkedSignal(signal, this.#closing.signal);
    this.#filling = this.#fill(pace, linked.signal);
    try {
      return await this.#filling;
    } finally {
      this.#filling = undefined;
    }
  }

  /** Flushes what was filled before opening, and marks it. Never rejects: without its mark it is checked again some day. */
  async keepFilled(): Promise<void> {
    await this.#disk?.marks?.keepFilled().catch((error: unknown) => {
      this.#log.warn("a layer cannot be marked as whole", { digest: this.source.digest, reason: messageOf(error) });
    });
  }

  /**
   * Checks a blob that is whole and was not checked before, from the cache alone: it is marked, or the layer refused. Does
   * nothing for others. Never rejects: what prevents the check is logged.
   */
  checkWholeBlob(): Promise<void> {
    this.#checking ??= this.#checkBlob().finally(() => {
      this.#checking = undefined;
    });
    return this.#checking;
  }

  [Symbol.asyncDispose](): Promise<void> {
    // Once: a descriptor that is closed twice may be somebody else's by then.
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    this.#diskWatch?.[Symbol.dispose]();
    this.#eviction?.[Symbol.dispose]();
    await Promise.allSettled([this.#filling]);
    // In this order: decoders read from the fetcher's files.
    await this.spans[Symbol.asyncDispose]();
    await this.#fetcher[Symbol.asyncDispose]();
    await this.#checking;
    try {
      await this.store.flushClean();
    } catch (error) {
      // Without the mark the next boot checks the spans; nothing is lost.
      this.#log.warn("could not flush the cache", { reason: messageOf(error) });
    }
    this.store.close();
    await this.#disk?.[Symbol.asyncDispose]();
    await this.source[Symbol.asyncDispose]();
  }

  #degraded(reason: string): void {
    this.#diskWatch?.start();
    if (this.#diskProblem !== undefined) return;
    this.#diskProblem = problemNow(undefined, `no disk cache: ${reason}`);
    this.#log.warn("the cache cannot be written; reads go on without it", { digest: this.source.digest, reason });
  }

  #diskIsBack(): void {
    this.#fetcher.retryDisk();
    this.store.retryDisk();
    // What memory had to keep comes to the disk when it is read again.
    this.store.forgetMemory();
    this.#diskProblem = undefined;
    this.#log.info("the cache can be written again", { digest: this.source.digest });
  }

  async #fill(pace: Pace, signal: AbortSignal): Promise<FillOutcome> {
    const { marks, compressed } = this.#disk ?? {};
    if (!marks || !compressed) {
      return { kind: "broken", error: new OcifsError("io", "there is no disk cache that the layer could be kept in") };
    }
    const outcome = await new LayerFill(
      {
        table: this.#o.table,
        store: this.store,
        spans: this.spans,
        fetcher: this.#fetcher,
        compressed,
        marks,
        room: this.#o.cache.room,
        tarDigest: this.#o.tarDigest,
        fetchDiffId: this.#o.fetchDiffId,
        checkBlob: () => this.checkWholeBlob(),
      },
      pace,
    ).run(signal);
    if (outcome.kind !== "refused" || this.spans.refusal) return outcome;
    if (await this.#startOver(outcome)) throw new OcifsError("busy", `${outcome.error.message}; it is fetched again`);
    await this.#refuse(outcome);
    return outcome;
  }

  async #checkBlob(): Promise<void> {
    const { marks, compressed } = this.#disk ?? {};
    if (!this.#o.checkBlob || !compressed || !this.#fetcher.complete || marks?.blobVerified) return;
    const { digest, description } = this.source;
    const { signal } = this.#closing;
    try {
      const got = await digestOfBlob(this.#fetcher, digest, signal);
      if (got === undefined) return;
      if (got === digest) {
        this.#log.info("the blob is complete and its digest is right", { digest });
        // Without its mark it is checked again by the next mount; nothing is wrong with it.
        await marks?.markBlob().catch((cause: unknown) => {
          this.#log.warn("a layer cannot be marked as checked", { digest, reason: messageOf(cause) });
        });
        return;
      }
      const error = new OcifsError("mismatch", `${description}: all of it was fetched and its digest is ${got}`);
      if (!(await this.#startOver({ of: "blob", error }))) await this.#refuse({ of: "blob", error });
    } catch (error) {
      if (signal.aborted) return;
      const sentence = `the blob's digest could not be checked: ${messageOf(error)}`;
      this.#problem = problemNow(this.#problem, sentence);
      this.#log.error(sentence, { digest });
    }
  }

  /**
   * A wrong blob of which some was here before may have been damaged here: all of it goes, once, and what comes from the
   * source decides. False when nothing is to be blamed on the cache.
   */
  async #startOver({ of, error }: { of: "blob" | "tar"; error: OcifsError }): Promise<boolean> {
    if (of === "tar" || this.#fresh) return false;
    this.#log.warn("cached bytes are wrong, fetching them again", { reason: error.message });
    await this.#disk?.marks?.clearTar();
    await this.#fetcher.discard({ begin: 0, end: this.source.sizeBytes });
    const { spans } = this.store.stats();
    if (spans > 0) await this.store.evict(0, spans - 1);
    this.#fresh = true;
    return true;
  }

  /** The end of trust on credit: a layer that is not what its digest says is not served any further. */
  async #refuse({ of, error: cause }: { of: "blob" | "tar"; error: OcifsError }): Promise<void> {
    const error = new OcifsError("mismatch", `${cause.message}; its bytes are not served any more`, { cause });
    this.#problem = problemNow(this.#problem, error.message);
    this.spans.refuse(error);
    await this.#disk?.marks?.clearTar();
    if (of === "blob") {
      await this.#disk?.marks?.clearBlob();
      const { compressed } = this.#disk ?? {};
      compressed?.discard({ begin: 0, end: compressed.sizeBytes });
    }
    const { spans } = this.store.stats();
    if (spans > 0) await this.store.evict(0, spans - 1);
    this.#log.error(error.message, { digest: this.source.digest });
  }
}

async function openMarks(o: OpenLayerOptions, files: LayerFiles, store: SpanStore): Promise<LayerMarks | undefined> {
  try {
    const marks = await LayerMarks.open({ ...files, blobDigest: o.source.digest, tarDigest: o.tarDigest, store });
    if (o.filledNow) marks.trust(o.filledNow);
    return marks;
  } catch (error) {
    o.log.warn("marks of complete layers cannot be used", { digest: o.source.digest, reason: messageOf(error) });
    return undefined;
  }
}
