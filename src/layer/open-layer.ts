import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { BlobSource } from "../blob/blob-source.js";
import type { BlobUse } from "../cache/blob-use.js";
import { bootId, type CacheDirectory } from "../cache/cache-directory.js";
import { CompressedFile } from "../cache/compressed-file.js";
import { closeFd, openFd, readAt, truncateFd } from "../cache/raw-file.js";
import { unlimitedRoom } from "../cache/room.js";
import type { WholeFile } from "../cache/verified-marks.js";
import { SpanStore } from "../native/layer.js";
import { hasherOf } from "../oci/digest.js";
import { CachedLayerDevice } from "./cached-layer-device.js";
import { fetchSizes } from "./fetch-sizes.js";
import { LayerEviction } from "./layer-eviction.js";
import { RangeFetcher } from "./range-fetcher.js";
import { SpanFetcher } from "./span-fetcher.js";
import type { SpanProvider } from "./span-provider.js";
import type { SpanTable } from "./span-table.js";
import { StreamSpans } from "./stream-spans.js";

const HASH_CHUNK_BYTES = 1 << 20;

/** What opening a layer adds to the cache beside its states: directories, names, the header. */
const OPENING_BYTES = 32 << 10;

/** A layer's files in the cache, and the mark that they are in use. */
interface DiskCache {
  readonly use: BlobUse;
  readonly compressed: CompressedFile;
  readonly dataName: WholeFile;
}

export interface OpenLayerOptions {
  readonly source: BlobSource;
  readonly table: SpanTable;
  readonly cache: CacheDirectory;
  /** See SpanFetcherOptions. */
  readonly checkWindows: boolean;
  /** Check the blob's digest once all of it is in the cache. */
  readonly checkBlob: boolean;
  readonly log: Log;
}

export interface LayerStats {
  readonly cachedBytes: number;
  readonly spans: number;
  readonly cachedSpans: number;
  readonly sizeBytes: number;
  readonly cache: "disk" | "memory";
  /** What is wrong with this layer, in one sentence. */
  readonly problem: string | undefined;
}

/** One layer ready for reading: its source, its cache files and what fills them. */
export class OpenLayer implements AsyncDisposable {
  readonly source: BlobSource;
  readonly store: SpanStore;
  readonly spans: SpanProvider;
  readonly device: CachedLayerDevice;
  readonly #fetcher: RangeFetcher;
  readonly #compressed: CompressedFile | undefined;
  readonly #use: BlobUse | undefined;
  readonly #eviction: Disposable | undefined;
  readonly #log: Log;
  readonly #closing = new AbortController();
  #checking: Promise<void> | undefined;
  #closed: Promise<void> | undefined;
  #problem: string | undefined;

  private constructor(o: OpenLayerOptions, store: SpanStore, disk: DiskCache | undefined) {
    const compressed = disk?.compressed;
    const room = disk?.use.room(o.cache.room) ?? unlimitedRoom;
    this.#use = disk?.use;
    this.source = o.source;
    this.store = store;
    this.#compressed = compressed;
    this.#log = o.log;
    const events = {
      onDegraded: (reason: string) => this.#degraded(reason),
      onComplete: () => {
        if (o.checkBlob && compressed) this.#checking = this.#checkBlob(compressed);
      },
    };
    this.#fetcher = new RangeFetcher(o.source, compressed, events, room);
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
    if (disk) {
      const eviction = new LayerEviction({
        directory: disk.use.path,
        dataName: disk.dataName,
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
        const files = await openCacheFiles(o);
        try {
          return new OpenLayer(o, new SpanStore({ ...common, ...files.fds }), files);
        } catch (error) {
          await files.compressed[Symbol.asyncDispose]();
          await files.use[Symbol.asyncDispose]();
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

  stats(): LayerStats {
    const spans = this.store.stats();
    return {
      cachedBytes: this.#compressed?.presentBytes() ?? 0,
      spans: spans.spans,
      cachedSpans: spans.presentSpans,
      sizeBytes: spans.sizeBytes,
      cache: this.#compressed && spans.diskOk ? "disk" : "memory",
      problem: this.#problem,
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    // Once: a descriptor that is closed twice may be somebody else's by then.
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    this.#eviction?.[Symbol.dispose]();
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
    await this.#compressed?.[Symbol.asyncDispose]();
    await this.#use?.[Symbol.asyncDispose]();
    await this.source[Symbol.asyncDispose]();
  }

  #degraded(reason: string): void {
    if (this.#problem !== undefined) return;
    this.#problem = `no disk cache: ${reason}`;
    this.#log.warn("the cache cannot be written; reads go on without it", { digest: this.source.digest, reason });
  }

  /** The end of trust on credit: a blob that is not what its digest says is not served any further. */
  async #checkBlob(file: CompressedFile): Promise<void> {
    try {
      const hash = hasherOf(this.source.digest);
      const buffer = Buffer.alloc(HASH_CHUNK_BYTES);
      for (let at = 0; at < file.sizeBytes; ) {
        if (this.#closing.signal.aborted) return;
        const lease = this.#fetcher.leaseIfThere({ begin: at, end: Math.min(file.sizeBytes, at + buffer.length) });
        // Some of it was given up meanwhile: it is checked when it is complete again.
        if (!lease) return;
        const n = await readAt(file.fd, buffer, at).finally(() => lease.release());
        if (n === 0) throw new OcifsError("io", `cache file of ${this.source.digest}: it ends at ${at}`);
        hash.update(buffer.subarray(0, n));
        at += n;
      }
      const got = `${this.source.digest.split(":")[0]}:${hash.digest("hex")}`;
      if (got === this.source.digest) {
        this.#log.info("the blob is complete and its digest is right", { digest: this.source.digest });
        return;
      }
      const error = new OcifsError(
        "mismatch",
        `${this.source.description}: all of it was fetched and its digest is ${got}; its bytes are not served any more`,
      );
      this.#problem = error.message;
      this.#log.error(error.message);
      this.spans.refuse(error);
      file.discard({ begin: 0, end: file.sizeBytes });
      const { spans } = this.store.stats();
      if (spans > 0) await this.store.evict(0, spans - 1);
    } catch (error) {
      this.#problem = `the blob's digest could not be checked: ${messageOf(error)}`;
      this.#log.error(this.#problem, { digest: this.source.digest });
    }
  }
}

/**
 * Opens or creates the blob's three cache files. `data` and `spans` carry the span table's identity in their names: what
 * one index decodes, right or wrong, never reaches mounts that use another. The descriptors in `fds` go to the SpanStore.
 */
async function openCacheFiles(
  o: OpenLayerOptions,
): Promise<DiskCache & { readonly fds: { dataFd: number; spansFd: number } }> {
  const use = await o.cache.useBlob(o.source.digest);
  const directory = use.path;
  const key = Buffer.from(o.table.partition).toString("hex").slice(0, 16);
  const dataName: WholeFile = `data-${key}`;
  const sizeBytes = o.table.outStarts.at(-1) ?? 0;
  const opened: number[] = [];
  let compressed: CompressedFile | undefined;
  try {
    compressed = await CompressedFile.open(join(directory, "compressed"), o.source.sizeBytes);
    const dataFd = await openFd(join(directory, dataName), "create");
    opened.push(dataFd);
    await truncateFd(dataFd, sizeBytes);
    const spansFd = await openFd(join(directory, `spans-${key}`), "create");
    return { use, compressed, dataName, fds: { dataFd, spansFd } };
  } catch (error) {
    for (const fd of opened) await closeFd(fd);
    await compressed?.[Symbol.asyncDispose]();
    await use[Symbol.asyncDispose]();
    throw error;
  }
}
