import { closeSync } from "node:fs";
import { Cleanup } from "../base/cleanup.js";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { CacheDirectory } from "../cache/cache-directory.js";
import { writeFully } from "../cache/raw-file.js";
import { OpenLayer } from "../layer/open-layer.js";
import { ErofsImage } from "../native/erofs.js";
import { openMemoryFile } from "../native/sparse.js";
import { type IndexChoice, type IndexedLayer, openIndexedLayer } from "./indexed-layer.js";
import { deviceTagOf, LayerMerge } from "./merge-layers.js";
import { type LayerChoice, OpenSource, type SourceOptions } from "./open-source.js";

export interface MountableImageOptions extends SourceOptions, LayerChoice, IndexChoice {
  readonly cacheDir: string;
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
 * them, merged as a container would see them. Resolves the reference, finds the indexes, checks that index, checkpoints and
 * blob belong together as far as they say, and opens the cache. Nothing of a blob is fetched yet.
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
    const openData = async ({ layer, table, index }: IndexedLayer) =>
      cleanup.add(
        await OpenLayer.open({
          source: layer.blob,
          table,
          cache,
          checkWindows: options.verify !== "none",
          checkBlob: options.verify !== "none",
          ...(index.manifest === undefined ? {} : { tarDigest: index.manifest.tar.digest }),
          fetchDiffId: (signal) => source.fetchDiffId(layer.layerNumber, signal),
          log,
        }),
      );
    const chosen = options.layer !== undefined || options.blob !== undefined || options.tarindex !== undefined;
    if (chosen || source.layerCount === 1) {
      const layer = await source.openLayer(options);
      const indexed = await openIndexedLayer(options, layer, cache, cleanup, log, signal);
      return new MountableImage(indexed.tree, [await openData(indexed)], source.resolved?.manifestDigest, cleanup);
    }
    const indexed = new Map<string, IndexedLayer>();
    const merge = new LayerMerge();
    for (let number = 0; number < source.layerCount; number++) {
      throwIfAborted(signal, "mount");
      const layer = await source.openLayer({ layer: number });
      const tag = deviceTagOf(layer.blob.digest);
      // The same layer may come twice; it is one device then, applied twice.
      const known = indexed.get(tag) ?? (await openIndexedLayer(options, layer, cache, cleanup, log, signal));
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
