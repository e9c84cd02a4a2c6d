import { Cleanup } from "../base/cleanup.js";
import { mapConcurrently } from "../base/concurrency.js";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { CacheDirectory } from "../cache/cache-directory.js";
import { OpenLayer } from "../layer/open-layer.js";
import type { SpanTable } from "../layer/span-table.js";
import type { ErofsImage } from "../native/erofs.js";
import type { ImageConfig } from "../oci/config.js";
import type { Digest } from "../oci/digest.js";
import { AccessProfiles, type ProfiledLayer } from "./access-profiles.js";
import { type BuildProgress, buildMissingIndexes, type LayerIndexes } from "./build-indexes.js";
import {
  checkLayerIndex,
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
  /** Called while indexes are built, and not at all when there is nothing to build. */
  readonly onBuildProgress?: (progress: BuildProgress) => void;
  /** See MetadataCache. */
  readonly tagAnswer?: Promise<TagAnswer | undefined>;
  /** Replay the access profiles of the layers, and record others; see AccessProfiles. Without it nothing is done about them. */
  readonly profiles?: { readonly record: boolean };
  /** Of a whole image only so many of its layers, from the base. */
  readonly layerCount?: number;
  /** What the cache may take up on disk; without it only the limits of others count. */
  readonly cacheSizeBytes?: number;
}

/** A tree with the layers that its files lie in. */
export class MountableImage implements AsyncDisposable {
  readonly tree: ErofsImage;
  /** In the order of the tree's device slots. */
  readonly layers: readonly OpenLayer[];
  readonly profiles: AccessProfiles | undefined;
  readonly manifestDigest: Digest | undefined;
  readonly #source: OpenSource;
  readonly #cleanup: Cleanup;

  constructor({ tree, layers, profiles }: Opened, source: OpenSource, cleanup: Cleanup) {
    this.tree = tree;
    this.layers = layers;
    this.profiles = profiles;
    this.manifestDigest = source.resolved?.manifestDigest;
    this.#source = source;
    this.#cleanup = cleanup;
  }

  /** The image's config; undefined for a `file:` blob. */
  fetchConfig(signal?: AbortSignal): Promise<ImageConfig | undefined> {
    return this.#source.fetchConfig(signal);
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
    const limit = options.cacheSizeBytes === undefined ? {} : { limitBytes: options.cacheSizeBytes };
    const cache = cleanup.add(await CacheDirectory.open(options.cacheDir, limit));
    const { tagAnswer } = options;
    const kept = { cache, log, ...(tagAnswer === undefined ? {} : { tagAnswer }) };
    const source = cleanup.add(await OpenSource.open(options, signal, kept));
    const chosen = options.layer !== undefined || options.blob !== undefined || options.tarindex !== undefined;
    // Of a blob by itself there is nothing to merge, and an index that was named is shown as it is.
    const whole = !chosen && source.resolved !== undefined;
    const layers = whole ? await openLayers(source, options.layerCount) : [await source.openLayer(options)];
    const opening = { options, source, layers, cache, cleanup, log, signal };
    const opened = await (whole ? openWholeImage(opening) : openOneLayer(opening));
    return new MountableImage(opened, source, cleanup);
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}

interface Opened {
  readonly tree: ErofsImage;
  readonly layers: readonly OpenLayer[];
  readonly profiles: AccessProfiles | undefined;
}

/** What an opening has in hand. `cleanup` closes whatever it opens. */
interface Opening {
  readonly options: MountableImageOptions;
  readonly source: OpenSource;
  /** Lowest first; one may come twice. */
  readonly layers: readonly SourceLayer[];
  readonly cache: CacheDirectory;
  readonly cleanup: Cleanup;
  readonly log: Log;
  readonly signal: AbortSignal | undefined;
}

function openLayers(source: OpenSource, count = source.layerCount): Promise<SourceLayer[]> {
  return Promise.all(Array.from({ length: count }, (_, layer) => source.openLayer({ layer })));
}

function findIndexes(
  opening: Opening,
  tarindexDigest: "checked" | "unchecked",
  known?: LayerIndexes,
): Promise<LayerIndexes> {
  const { options, source, layers, cache, log, signal } = opening;
  const { onBuildProgress: onProgress } = options;
  const request = { choice: options, source, layers, cache, log, onProgress, tarindexDigest, signal };
  return buildMissingIndexes(request, known);
}

async function openOneLayer(opening: Opening): Promise<Opened> {
  const { options, layers, cleanup, log, signal } = opening;
  const [layer] = layers;
  if (!layer) throw new OcifsError("internal", "image: no layer was chosen");
  await using indexes = await findIndexes(opening, "checked");
  const indexed = await openIndexedLayer(options, layer, indexes.of(layer), cleanup, log, signal);
  const data = await openData(opening, indexed, indexed.table, indexes);
  const profiles = await startProfiles(opening, [{ index: indexed.index, data }]);
  return { tree: indexed.tree, layers: [data], profiles };
}

async function openWholeImage(opening: Opening): Promise<Opened> {
  const { options, layers, cleanup, log, signal } = opening;
  // The merge is mostly there already, and the layers' own tarindexes are then not read at all.
  await using indexes = await findIndexes(opening, "unchecked");
  const check = () => layers.map((layer) => checkLayerIndex(options, layer, indexes.of(layer), log));
  let found = check();
  const kept = await mergeOf(opening, found).open(signal);
  if (kept === undefined) {
    await findIndexes(opening, "checked", indexes);
    found = check();
  }
  // The same layer may come twice; it is one device then, applied twice.
  const distinct = new Map(found.map((each) => [each.layer.blob.digest, each]));
  const open = async (each: LayerIndex) => ({
    index: each.index,
    data: await openData(opening, each, await openLayerTable(each, cleanup), indexes),
  });
  const opened = await mapConcurrently([...distinct.values()], LAYERS_AT_ONCE, open, signal);
  // Before the trees are merged: meanwhile the first bytes are on their way.
  const profiles = await startProfiles(opening, opened);
  const tree = kept ?? (await mergeTrees(opening, found));
  cleanup.defer(() => tree.close());
  return { tree, layers: opened.map(({ data }) => data), profiles };
}

async function startProfiles(
  { options, cache, cleanup, log }: Opening,
  layers: readonly ProfiledLayer[],
): Promise<AccessProfiles | undefined> {
  if (options.profiles === undefined) return undefined;
  return cleanup.add(await AccessProfiles.start(layers, { ...options.profiles, cache, log }));
}

function mergeOf({ source, cache, log }: Opening, layers: readonly LayerIndex[]): MergedTarindex {
  const image = source.resolved?.manifestDigest;
  if (image === undefined) throw new OcifsError("internal", "image: several layers without a manifest");
  const merged = layers.map(({ layer, index: { manifest } }) => {
    if (manifest !== undefined) return { digest: layer.blob.digest, manifest };
    throw new OcifsError("internal", `layer ${layer.blob.digest}: an index in the cache without its JSON`);
  });
  return new MergedTarindex(cache, image, merged, log);
}

/** `layers` lowest first. */
async function mergeTrees(opening: Opening, layers: readonly LayerIndex[]): Promise<ErofsImage> {
  const { signal } = opening;
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
  return await mergeOf(opening, layers).make(merge.write(), signal);
}

async function openData(
  opening: Opening,
  { layer, index }: LayerIndex,
  table: SpanTable,
  indexes: LayerIndexes,
): Promise<OpenLayer> {
  const { options, source, cache, cleanup, log } = opening;
  return cleanup.add(
    await OpenLayer.open({
      source: layer.blob,
      table,
      cache,
      checkWindows: options.verify !== "none",
      checkBlob: options.verify !== "none",
      ...(index.manifest === undefined ? {} : { tarDigest: index.manifest.tar.digest }),
      filledNow: indexes.filledBy(layer),
      fetchDiffId: (signal) => source.fetchDiffId(layer.layerNumber, signal),
      log,
    }),
  );
}
