import { readFile } from "node:fs/promises";
import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { BlobSource } from "../blob/blob-source.js";
import { DeferredBlobSource } from "../blob/deferred.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { digestsIn } from "../cache/cached-blobs.js";
import { CachedImages } from "../cache/cached-images.js";
import { ContentStore } from "../content/content-store.js";
import { openLayerTable } from "../image/indexed-layer.js";
import { openMountableImage } from "../image/mountable-image.js";
import { loadIndex } from "../index/load.js";
import { cachedIndex } from "../index/locate.js";
import { parseIndexManifest } from "../index/manifest.js";
import { OpenLayer } from "../layer/open-layer.js";
import { type Digest, parseDigest } from "../oci/digest.js";

/** A layer of the cache, complete, while somebody uses it. */
export interface ServedLayer extends AsyncDisposable {
  readonly layer: OpenLayer;
  readonly store: ContentStore;
}

/** Finds layers of the cache by what others call them, and opens them. */
export class CachedLayers {
  readonly #cache: CacheDirectory;
  readonly #log: Log;
  /** Of indexes that were read; an index never changes what its blob's tar is. */
  readonly #diffIds = new Map<Digest, Digest>();

  constructor(cache: CacheDirectory, log: Log) {
    this.#cache = cache;
    this.#log = log;
  }

  get cache(): CacheDirectory {
    return this.#cache;
  }

  /** The blob of a layer by its diffID, or by the blob's own digest; undefined when the cache has no index of it. */
  async find(digest: Digest): Promise<Digest | undefined> {
    for (const blob of await digestsIn(this.#cache.path, "indexes")) {
      if (blob === digest || (await this.#diffIdOf(blob)) === digest) return blob;
    }
    return undefined;
  }

  /** Completes a layer, from the network if need be, and makes its content store. `not-found` when the cache does not know it. */
  async open(digest: Digest, signal: AbortSignal): Promise<ServedLayer> {
    const blob = await this.find(digest);
    if (blob === undefined) throw new OcifsError("not-found", `layer ${digest}: the cache has no such layer`);
    const cleanup = new Cleanup();
    try {
      const layer = await this.#openLayer(blob, cleanup, signal);
      const store = cleanup.add(await ContentStore.open(layer, this.#cache.room, signal));
      return { layer, store, [Symbol.asyncDispose]: () => cleanup[Symbol.asyncDispose]() };
    } catch (error) {
      await cleanup[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #diffIdOf(blob: Digest): Promise<Digest | undefined> {
    const known = this.#diffIds.get(blob);
    if (known !== undefined) return known;
    const location = await cachedIndex(this.#cache, blob);
    if (!location?.jsonPath) return undefined;
    const { jsonPath } = location;
    const text = await readFile(jsonPath, "utf8").catch(() => undefined);
    if (text === undefined) return undefined;
    try {
      const { digest } = parseIndexManifest(text, jsonPath).tar;
      this.#diffIds.set(blob, digest);
      return digest;
    } catch (error) {
      if (!(error instanceof OcifsError)) throw error;
      return undefined;
    }
  }

  /** From the cache alone if all of it is there; else through an image that has it and says where it comes from. */
  async #openLayer(blob: Digest, cleanup: Cleanup, signal: AbortSignal): Promise<OpenLayer> {
    const [image] = (await CachedImages.read(this.#cache.path)).usersOf(blob).filter(({ names }) => names.length > 0);
    const name = image?.names[0];
    if (image && name !== undefined) {
      const source = `${name.replace(/:[^:/]*$/, "")}@${image.digest}`;
      const options = { source, blob, insecure: false, verify: "blob" as const, cacheDir: this.#cache.path };
      const opened = cleanup.add(await openMountableImage(options, this.#log, signal));
      const [layer] = opened.layers;
      if (layer) return layer;
    }
    return await this.#openOffline(blob, cleanup);
  }

  async #openOffline(blob: Digest, cleanup: Cleanup): Promise<OpenLayer> {
    const location = await cachedIndex(this.#cache, blob);
    const index = location && (await loadIndex({ ...location, blobDigest: blob }));
    if (!index?.manifest) throw new OcifsError("not-found", `layer ${blob}: the cache has no index of it`);
    const { manifest } = index;
    const layer = { blob: manifest.blob, encoding: manifest.blob.encoding };
    const table = await openLayerTable({ layer, index }, cleanup);
    const source = offlineBlob(parseDigest(manifest.blob.digest), manifest.blob.sizeBytes);
    const { tar } = manifest;
    const options = { source, table, cache: this.#cache, checkWindows: true, checkBlob: true, tarDigest: tar.digest };
    return cleanup.add(await OpenLayer.open({ ...options, log: this.#log }));
  }
}

/** A blob of which nothing is left to say where it comes from: what the cache has of it is all there is. */
function offlineBlob(digest: Digest, sizeBytes: number): BlobSource {
  const description = `blob ${digest}`;
  return new DeferredBlobSource({ mediaType: "", digest, sizeBytes, annotations: new Map() }, description, async () => {
    throw new OcifsError(
      "not-found",
      `${description}: it is not complete in the cache, and no image there says where it comes from`,
    );
  });
}
