import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isOcifsError, messageOf, OcifsError, type OcifsErrorCode, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { type LoadedIndex, loadIndex } from "../index/load.js";
import { cachedIndex, namedIndex } from "../index/locate.js";
import type { Digest } from "../oci/digest.js";
import { LinkedSignal } from "../registry/abort.js";
import type { IndexChoice } from "./indexed-layer.js";
import type { BuiltLayer, WholeCacheFile } from "./layer-build.js";
import type { OpenSource, SourceLayer } from "./open-source.js";

/** How far the building of missing indexes is, all layers together. */
export interface BuildProgress {
  readonly layers: number;
  /** Of the blobs of these layers: used so far, and in all. */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface BuildIndexesOptions {
  readonly choice: IndexChoice;
  readonly source: OpenSource;
  /** A layer may come twice. */
  readonly layers: readonly SourceLayer[];
  readonly cache: CacheDirectory;
  readonly log: Log;
  readonly onProgress?: ((progress: BuildProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The index of each layer. Disposing of it removes those that only this mount can have; they must have been opened by then. */
export class LayerIndexes implements AsyncDisposable {
  readonly #indexes = new Map<Digest, LoadedIndex>();
  readonly #whole: WholeCacheFile[] = [];
  #privateDirectory: Promise<string> | undefined;

  /** Cache files that are whole now; see `markWholeFiles`. */
  get whole(): readonly WholeCacheFile[] {
    return this.#whole;
  }

  of({ blob }: SourceLayer): LoadedIndex {
    const index = this.#indexes.get(blob.digest);
    if (!index) throw new OcifsError("internal", `layer ${blob.digest}: its index was not asked for`);
    return index;
  }

  has({ blob }: SourceLayer): boolean {
    return this.#indexes.has(blob.digest);
  }

  add({ blob }: SourceLayer, index: LoadedIndex): void {
    this.#indexes.set(blob.digest, index);
  }

  addBuilt(layer: SourceLayer, built: BuiltLayer): void {
    this.add(layer, built.index);
    this.#whole.push(...built.whole);
  }

  /** Made at the first call, for all layers. */
  privateDirectory(): Promise<string> {
    this.#privateDirectory ??= mkdtemp(join(tmpdir(), "ocifs-index-")).catch((cause) => {
      throw new OcifsError(
        "io",
        `index: neither the cache nor ${tmpdir()} can hold it: ${messageOf(cause)}; name a writable directory with cachedir=`,
        { cause },
      );
    });
    return this.#privateDirectory;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const [directory] = await Promise.allSettled([this.#privateDirectory]);
    if (directory.status === "fulfilled" && directory.value !== undefined) {
      await rm(directory.value, { recursive: true, force: true });
    }
  }
}

/**
 * Finds each layer's index: the files that were named, else what the cache has, else built now from the layer's blob. Layers
 * are built at the same time; the first failure ends the others, and its error names the layer.
 */
export async function buildMissingIndexes(o: BuildIndexesOptions): Promise<LayerIndexes> {
  const indexes = new LayerIndexes();
  try {
    const missing: SourceLayer[] = [];
    for (const layer of o.layers) {
      if (indexes.has(layer) || missing.some(({ blob }) => blob.digest === layer.blob.digest)) continue;
      const found = await findIndex(o, layer);
      if (found) indexes.add(layer, found);
      else missing.push(layer);
    }
    if (missing.length > 0) await buildAll(o, missing, indexes);
    return indexes;
  } catch (error) {
    await indexes[Symbol.asyncDispose]();
    throw error;
  }
}

async function findIndex(o: BuildIndexesOptions, layer: SourceLayer): Promise<LoadedIndex | undefined> {
  const { digest } = layer.blob;
  const options = { blobDigest: digest, ...(o.signal ? { signal: o.signal } : {}) };
  const { tarindex, zinfo } = o.choice;
  if (tarindex !== undefined) {
    return await loadIndex({ ...(await namedIndex({ tarindex, ...(zinfo ? { zinfo } : {}) })), ...options });
  }
  try {
    const location = await cachedIndex(o.cache, digest);
    return location && (await loadIndex({ ...location, ...options }));
  } catch (error) {
    if (!isOcifsError(error)) throw error;
    // Of another version, or damaged: the layer tells what should be there. A cache that fails altogether has none.
    if (!rebuilt.has(error.code) && !(error.code === "io" && o.cache.unusable !== undefined)) throw error;
    o.log.warn("the index in the cache cannot be used and is built again", { digest, reason: error.message });
    return undefined;
  }
}

/** What is wrong with a cached index that building it again puts right. */
const rebuilt: ReadonlySet<OcifsErrorCode> = new Set(["mismatch", "corrupt", "unsupported", "limit", "not-found"]);

async function buildAll(o: BuildIndexesOptions, missing: readonly SourceLayer[], indexes: LayerIndexes): Promise<void> {
  // Loaded when it is needed: most mounts find their indexes.
  const { buildLayer } = await import("./layer-build.js");
  const startedMs = performance.now();
  const totalBytes = missing.reduce((sum, { blob }) => sum + blob.sizeBytes, 0);
  const doneBytes = new Map<SourceLayer, number>();
  const report = () => {
    const done = [...doneBytes.values()].reduce((sum, bytes) => sum + bytes, 0);
    o.onProgress?.({ layers: missing.length, doneBytes: done, totalBytes });
  };
  o.log.info("building indexes as the layers arrive", { layers: missing.length, bytes: totalBytes });
  if (o.cache.unusable !== undefined) {
    o.log.warn("the cache cannot be written; the index is built for this mount only", { reason: o.cache.unusable });
  }
  report();
  const failed = new AbortController();
  using linked = new LinkedSignal(o.signal, failed.signal);
  let failure: { error: unknown } | undefined;
  // The largest first: what is left to the end, when few run at the same time, is short.
  const queue = [...missing].sort((a, b) => b.blob.sizeBytes - a.blob.sizeBytes);
  const work = async () => {
    for (let layer = queue.shift(); layer && !linked.signal.aborted; layer = queue.shift()) {
      const current = layer;
      try {
        const built = await buildLayer({
          layer,
          expectedDiffId: await o.source.fetchDiffId(layer.layerNumber, linked.signal),
          cache: o.cache,
          privateDirectory: () => indexes.privateDirectory(),
          log: o.log,
          onProgress: (blobBytes) => {
            doneBytes.set(current, blobBytes);
            report();
          },
          signal: linked.signal,
        });
        indexes.addBuilt(layer, built);
        o.log.info("the index of a layer is built", { digest: layer.blob.digest, ...factsOf(built) });
      } catch (error) {
        failure ??= { error: o.signal?.aborted ? error : namingLayer(error, layer, o.source.layerCount) };
        failed.abort(error);
      }
    }
  };
  // The config is fetched once, by the first of them.
  await o.source.fetchDiffId(0, linked.signal);
  await Promise.all(Array.from({ length: Math.min(limits.layersBuiltAtOnce, missing.length) }, work));
  throwIfAborted(o.signal, "mount");
  if (failure) throw failure.error;
  o.log.info("the indexes are built", { layers: missing.length, ms: Math.round(performance.now() - startedMs) });
}

function factsOf({ index, whole }: BuiltLayer): Record<string, unknown> {
  return { entries: index.manifest?.tar.entryCount, kept: whole.map(({ name }) => name) };
}

function namingLayer(error: unknown, { blob, layerNumber }: SourceLayer, layerCount: number): unknown {
  if (!isOcifsError(error)) return error;
  const which = layerCount > 1 ? `layer ${layerNumber} of ${layerCount} (${blob.digest})` : `layer ${blob.digest}`;
  return new OcifsError(error.code, `${which}: ${error.message}`, { cause: error });
}
