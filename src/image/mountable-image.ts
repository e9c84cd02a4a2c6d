import { closeSync } from "node:fs";
import { Cleanup } from "../base/cleanup.js";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { CacheDirectory } from "../cache/cache-directory.js";
import { writeFully } from "../cache/raw-file.js";
import { OpenLayer } from "../layer/open-layer.js";
import { ErofsImage } from "../native/erofs.js";
import { openMemoryFile } from "../native/sparse.js";
import { type BuildProgress, buildMissingIndexes } from "./build-indexes.js";
import { type IndexChoice, type IndexedLayer, openIndexedLayer } from "./indexed-layer.js";
import { markWholeFiles } from "./mark-whole.js";
import { deviceTagOf, LayerMerge } from "./merge-layers.js";
import { type LayerChoice, OpenSource, type SourceOptions } from "./open-source.js";

export interface MountableImageOptions extends SourceOptions, LayerChoice, IndexChoice {
  readonly cacheDir: string;
  /** Called while indexes are built, and not at all when there is nothing to build. */
  readonly onBuildProgress?: (progress: BuildProgress) => void;
}

/** A tree with the layers that its files lie in. */
export class MountableImage implements AsyncDisposable {
  readonly tree: ErofsImage;
  /** In the order of the tree's device slots. */
  readonly layers: readonly OpenLayer[];
  readonly manifestDigest: string | undefined;
  readonly #cleanup: Cleanup;

  constructor(tree: ErofsImage, layers: readonly OpenLayer[], manifestDigest: string | undefined, cleanup: Cleanup) {
    this.tree = tree;
    this.layers = layers;
    this.manifestDigest = manifestDigest;
    this.#cleanup = cleanup;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
  }
}

/**
 * Opens an image for reading through the indexes of its layers: one layer if one is chosen, or the only one; otherwise all of
 * them, merged as a container would see them. Resolves the reference, finds the indexes, builds those that are missing, checks
 * that index, checkpoints and blob belong together as far as they say, and opens the cache. Of a blob that has an index
 * nothing is fetched yet.
 */
export async function openMountableImage(
  options: MountableImageOptions,
  log: Log,
  signal?: AbortSignal,
): Promise<MountableImage> {
  const cleanup = new Cleanup();
  try {
    const cache = await CacheDirectory.open(options.cacheDir);
    const source = cleanup.add(await OpenSource.open(options, signal));
    const openData = async ({ layer, table }: IndexedLayer) =>
      cleanup.add(
        await OpenLayer.open({
          source: layer.blob,
          table,
          cache,
          checkWindows: options.verify !== "none",
          checkBlob: options.verify !== "none",
          log,
        }),
      );
    const chosen = options.layer !== undefined || options.blob !== undefined || options.tarindex !== undefined;
    const single = chosen || source.layerCount === 1;
    const choices = single ? [options] : Array.from({ length: source.layerCount }, (_, layer) => ({ layer }));
    const layersOfSource = await Promise.all(choices.map((choice) => source.openLayer(choice)));
    const { onBuildProgress: onProgress } = options;
    await using indexes = await buildMissingIndexes({
      choice: options,
      source,
      layers: layersOfSource,
      cache,
      log,
      onProgress,
      signal,
    });
    const marking = markWholeFiles(indexes.whole, log);
    cleanup.defer(() => marking);
    const [layer] = layersOfSource;
    if (single && layer) {
      const indexed = await openIndexedLayer(options, layer, indexes.of(layer), cleanup, log);
      return new MountableImage(indexed.tree, [await openData(indexed)], source.resolved?.manifestDigest, cleanup);
    }
    const indexed = new Map<string, IndexedLayer>();
    const merge = new LayerMerge();
    for (const layer of layersOfSource) {
      throwIfAborted(signal, "mount");
      const tag = deviceTagOf(layer.blob.digest);
      // The same layer may come twice; it is one device then, applied twice.
      const known = indexed.get(tag) ?? (await openIndexedLayer(options, layer, indexes.of(layer), cleanup, log));
      indexed.set(tag, known);
      const facts = known.index.manifest;
      merge.add({ image: known.tree, digest: layer.blob.digest, ...(facts === undefined ? {} : { facts }) });
    }
    const tree = await inMemory(merge.write(), signal);
    cleanup.defer(() => tree.close());
    // The layers' own trees have served their purpose.
    for (const { tree: own } of indexed.values()) own.close();
    const layers: OpenLayer[] = [];
    for (const { digest } of merge.devices) {
      const known = indexed.get(deviceTagOf(digest));
      if (!known) throw new OcifsError("internal", `merged image: no layer for device ${digest}`);
      layers.push(await openData(known));
    }
    return new MountableImage(tree, layers, source.resolved?.manifestDigest, cleanup);
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}

/** A tarindex that exists in no file. */
async function inMemory(pieces: Iterable<Uint8Array>, signal: AbortSignal | undefined): Promise<ErofsImage> {
  const fd = openMemoryFile(0);
  try {
    let at = 0;
    for (const piece of pieces) {
      throwIfAborted(signal, "mount");
      await writeFully(fd, piece, at);
      at += piece.length;
    }
    return new ErofsImage(fd);
  } finally {
    closeSync(fd);
  }
}
