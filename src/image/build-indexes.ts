import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mapConcurrently } from "../base/concurrency.js";
import { isOcifsError, messageOf, OcifsError, type OcifsErrorCode, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { type LoadedIndex, loadIndex } from "../index/load.js";
import { cachedIndex, namedIndex } from "../index/locate.js";
import type { FilledNow } from "../layer/layer-marks.js";
import type { Digest } from "../oci/digest.js";
import { LinkedSignal } from "../registry/abort.js";
import type { IndexChoice } from "./indexed-layer.js";
import type { BuiltLayer } from "./layer-build.js";
import type { OpenSource, SourceLayer } from "./open-source.js";

/** Indexes read at once: enough to keep the disk busy. */
const LOADED_AT_ONCE = 8;

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
  /** Unchecked: of an index in the cache, the caller reads no tarindex, or compares its digest. */
  readonly tarindexDigest: "checked" | "unchecked";
  readonly signal?: AbortSignal | undefined;
}

/** The index of each layer. Disposing of it removes those that only this mount can have; they must have been opened by then. */
export class LayerIndexes implements AsyncDisposable {
  readonly #indexes = new Map<Digest, LoadedIndex>();
  readonly #unchecked = new Set<Digest>();
  readonly #filled = new Map<Digest, FilledNow>();
  #privateDirectory: Promise<string> | undefined;

  /** What building the layer's index has left whole and right in the cache, not flushed yet. */
  filledBy({ blob }: SourceLayer): FilledNow {
    return this.#filled.get(blob.digest) ?? { blob: false, tar: false };
  }

  of({ blob }: SourceLayer): LoadedIndex {
    const index = this.#indexes.get(blob.digest);
    if (!index) throw new OcifsError("internal", `layer ${blob.digest}: its index was not asked for`);
    return index;
  }

  has({ blob }: SourceLayer, tarindexDigest: "checked" | "unchecked"): boolean {
    return this.#indexes.has(blob.digest) && !(tarindexDigest === "checked" && this.#unchecked.has(blob.digest));
  }

  add({ blob }: SourceLayer, index: LoadedIndex, tarindexDigest: "checked" | "unchecked"): void {
    this.#indexes.set(blob.digest, index);
    if (tarindexDigest === "checked") this.#unchecked.delete(blob.digest);
    else this.#unchecked.add(blob.digest);
  }

  addBuilt(layer: SourceLayer, built: BuiltLayer): void {
    this.add(layer, built.index, "checked");
    this.#filled.set(layer.blob.digest, built.filled);
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
 * are built at the same time; the first failure ends the others, and its error names the layer. `indexes` may have some from an
 * earlier call, which are kept unless they are to be checked now and were not.
 */
export async function buildMissingIndexes(
  o: BuildIndexesOptions,
  indexes: LayerIndexes = new LayerIndexes(),
): Promise<LayerIndexes> {
  try {
    const open = o.layers.filter((layer) => !indexes.has(layer, o.tarindexDigest));
    const distinct = new Map(open.map((layer) => [layer.blob.digest, layer]));
    const find = async (layer: SourceLayer) => ({ layer, found: await findIndex(o, layer) });
    const missing: SourceLayer[] = [];
    for (const { layer, found } of await mapConcurrently([...distinct.values()], LOADED_AT_ONCE, find, o.signal)) {
      if (found) indexes.add(layer, found, o.tarindexDigest);
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
  const { tarindexDigest } = o;
  const options = { blobDigest: digest, tarindexDigest, ...(o.signal ? { signal: o.signal } : {}) };
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

function factsOf({ index, filled }: BuiltLayer): Record<string, unknown> {
  return { entries: index.manifest?.tar.entryCount, blobKept: filled.blob, tarKept: filled.tar };
}

function namingLayer(error: unknown, { blob, layerNumber }: SourceLayer, layerCount: number): unknown {
  if (!isOcifsError(error)) return error;
  const which = layerCount > 1 ? `layer ${layerNumber} of ${layerCount} (${blob.digest})` : `layer ${blob.digest}`;
  return new OcifsError(error.code, `${which}: ${error.message}`, { cause: error });
}
