import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { BlobSource } from "../blob/blob-source.js";
import { bootId, type CacheDirectory } from "../cache/cache-directory.js";
import { CompressedFile } from "../cache/compressed-file.js";
import { closeFd, openFd, readAt } from "../cache/raw-file.js";
import { SpanStore } from "../native/layer.js";
import { hasherOf } from "../oci/digest.js";
import { CachedLayerDevice } from "./cached-layer-device.js";
import { fetchSizes } from "./fetch-sizes.js";
import { RangeFetcher } from "./range-fetcher.js";
import { SpanFetcher } from "./span-fetcher.js";
import type { SpanProvider } from "./span-provider.js";
import type { SpanTable } from "./span-table.js";
import { StreamSpans } from "./stream-spans.js";

const HASH_CHUNK_BYTES = 1 << 20;

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
  readonly #log: Log;
  readonly #closing = new AbortController();
  #checking: Promise<void> | undefined;
  #closed: Promise<void> | undefined;
  #problem: string | undefined;

  private constructor(o: OpenLayerOptions, store: SpanStore, compressed: CompressedFile | undefined) {
    this.source = o.source;
    this.store = store;
    this.#compressed = compressed;
    this.#log = o.log;
    this.#fetcher = new RangeFetcher(o.source, compressed, {
      onDegraded: (reason) => this.#degraded(reason),
      onComplete: () => {
        if (o.checkBlob && compressed) this.#checking = this.#checkBlob(compressed);
      },
    });
    const spans = {
      table: o.table,
      store,
      fetcher: this.#fetcher,
      onDegraded: (reason: string) => this.#degraded(reason),
      onRefetch: (span: number, reason: string) =>
        this.#log.warn("cached bytes are wrong, fetching them again", { span, reason }),
    };
    this.spans =
      o.table.encoding === "zstd"
        ? new StreamSpans({ ...spans, sizeBytes: o.source.sizeBytes })
        : new SpanFetcher({ ...spans, checkWindows: o.checkWindows });
    this.device = new CachedLayerDevice(store, this.spans);
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
        const files = await openCacheFiles(o);
        try {
          return new OpenLayer(o, new SpanStore({ ...common, ...files.fds }), files.compressed);
        } catch (error) {
          await files.compressed[Symbol.asyncDispose]();
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
        const n = await readAt(file.fd, buffer, at);
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
): Promise<{ compressed: CompressedFile; fds: { dataFd: number; spansFd: number } }> {
  const directory = await o.cache.blobDirectory(o.source.digest);
  const key = Buffer.from(o.table.partition).toString("hex").slice(0, 16);
  const compressed = await CompressedFile.open(join(directory, "compressed"), o.source.sizeBytes);
  const opened: number[] = [];
  try {
    const dataFd = await openFd(join(directory, `data-${key}`), "create");
    opened.push(dataFd);
    const spansFd = await openFd(join(directory, `spans-${key}`), "create");
    return { compressed, fds: { dataFd, spansFd } };
  } catch (error) {
    for (const fd of opened) await closeFd(fd);
    await compressed[Symbol.asyncDispose]();
    throw error;
  }
}
