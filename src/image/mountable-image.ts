import { Cleanup } from "../base/cleanup.js";
import { mapConcurrently } from "../base/concurrency.js";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { CacheDirectory } from "../cache/cache-directory.js";
import { OpenLayer } from "../layer/open-layer.js";
import type { SpanTable } from "../layer/span-table.js";
import type { ErofsImage } from "../native/erofs.js";
import type { Digest } from "../oci/digest.js";
import {
  findLayerIndex,
  type IndexChoice,
  type LayerIndex,
  openIndexedLayer,
  openLayerTable,
  openLayerTree,
} from "./indexed-layer.js";
import { MergedTarindex } from "./merged-tarindex.js";
import { type LayerChoice, OpenSource, type SourceLayer, type SourceOptions } from "./open-source.js";
import type { TagAnswer } from "./tag-answer.js";

/** Layers opened at once: enough to keep the disk busy, few enough that an image of many keeps no descriptors waiting. */
const LAYERS_AT_ONCE = 8;

export interface MountableImageOptions extends SourceOptions, LayerChoice, IndexChoice {
  readonly cacheDir: string;
  /** See MetadataCache. */
  readonly tagAnswer?: Promise<TagAnswer | undefined>;
  /** What the cache may take up on disk; without it only the limits of others count. */
  readonly cacheSizeBytes?: number;
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
    const limit = options.cacheSizeBytes === undefined ? {} : { limitBytes: options.cacheSizeBytes };
    const cache = cleanup.add(await CacheDirectory.open(options.cacheDir, limit));
    const { tagAnswer } = options;
    const kept = { cache, log, ...(tagAnswer === undefined ? {} : { tagAnswer }) };
    const source = cleanup.add(await OpenSource.open(options, signal, kept));
    const opening = { options, source, cache, cleanup, log, signal };
    const chosen = options.layer !== undefined || options.blob !== undefined || options.tarindex !== undefined;
    const { tree, layers } =
      chosen || source.layerCount === 1 ? await openOneLayer(opening) : await openWholeImage(opening);
    return new MountableImage(tree, layers, source.resolved?.manifestDigest, cleanup);
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}

interface Opened {
  readonly tree: ErofsImage;
  readonly layers: readonly OpenLayer[];
}

/** What an opening has in hand. `cleanup` closes whatever it opens. */
interface Opening {
  readonly options: MountableImageOptions;
  readonly source: OpenSource;
  readonly cache: CacheDirectory;
  readonly cleanup: Cleanup;
  readonly log: Log;
  readonly signal: AbortSignal | undefined;
}

async function openOneLayer(opening: Opening): Promise<Opened> {
  const { options, source, cache, cleanup, log, signal } = opening;
  const layer = await source.openLayer(options);
  const { tree, table, index } = await openIndexedLayer(options, layer, cache, cleanup, log, signal);
  return { tree, layers: [await openData(opening, { layer, index }, table)] };
}

async function openWholeImage(opening: Opening): Promise<Opened> {
  const { options, source, cache, cleanup, log, signal } = opening;
  const order: Digest[] = [];
  // The same layer may come twice; it is one device then, applied twice.
  const distinct = new Map<Digest, SourceLayer>();
  for (let number = 0; number < source.layerCount; number++) {
    const layer = await source.openLayer({ layer: number });
    order.push(layer.blob.digest);
    if (!distinct.has(layer.blob.digest)) distinct.set(layer.blob.digest, layer);
  }
  const find = (layer: SourceLayer, stop: AbortSignal) => findLayerIndex(options, layer, cache, log, stop);
  const found = await mapConcurrently([...distinct.values()], LAYERS_AT_ONCE, find, signal);
  const byDigest = new Map(found.map((each) => [each.layer.blob.digest, each]));
  const tree = await openMergedTree(
    opening,
    order.map((digest) => byDigest.get(digest) ?? unknownLayer(digest)),
  );
  cleanup.defer(() => tree.close());
  const open = async (each: LayerIndex) => openData(opening, each, await openLayerTable(each, cleanup));
  return { tree, layers: await mapConcurrently(found, LAYERS_AT_ONCE, open, signal) };
}

/** From the cache, or made of the layers' own trees; `layers` lowest first. */
async function openMergedTree(opening: Opening, layers: readonly LayerIndex[]): Promise<ErofsImage> {
  const { source, cache, log, signal } = opening;
  const image = source.resolved?.manifestDigest;
  if (image === undefined) throw new OcifsError("internal", "image: several layers without a manifest");
  const merged = layers.map(({ layer, index: { manifest } }) => {
    if (manifest !== undefined) return { digest: layer.blob.digest, manifest };
    throw new OcifsError("internal", `layer ${layer.blob.digest}: an index in the cache without its JSON`);
  });
  const kept = new MergedTarindex(cache, image, merged, log);
  const known = await kept.open(signal);
  if (known !== undefined) return known;
  // Loaded when it is needed: a tarindex writer is a good part of what a mount loads.
  const { LayerMerge } = await import("./merge-layers.js");
  const merge = new LayerMerge();
  await using trees = new Cleanup();
  const open = new Map<Digest, ErofsImage>();
  for (const { layer, index } of layers) {
    throwIfAborted(signal, "mount");
    const { digest } = layer.blob;
    const image = open.get(digest) ?? (await openLayerTree({ layer, index }, trees, signal)).tree;
    open.set(digest, image);
    merge.add({ image, digest, ...(index.manifest === undefined ? {} : { facts: index.manifest }) });
  }
  return await kept.make(merge.write(), signal);
}

async function openData(opening: Opening, { layer, index }: LayerIndex, table: SpanTable): Promise<OpenLayer> {
  const { options, source, cache, cleanup, log } = opening;
  return cleanup.add(
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
}

function unknownLayer(digest: Digest): never {
  throw new OcifsError("internal", `image: layer ${digest} was opened without its index`);
}
