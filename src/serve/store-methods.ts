import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { findBlob, listBlobs, removeBlob } from "../cache/cached-blobs.js";
import { CachedImages } from "../cache/cached-images.js";
import { completeLayer } from "../content/complete-layer.js";
import { openMountableImage } from "../image/mountable-image.js";
import { parseImageConfig } from "../oci/config.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { parseReference } from "../oci/reference.js";
import type { CachedLayers } from "./cached-layers.js";
import type { LayerStreams } from "./layer-streams.js";
import type { Answer, MethodTable } from "./methods.js";
import { type Mounter, mountMethods } from "./mount-methods.js";
import { digestIn, isParams, type Params, textIn } from "./params.js";

/** The cache's layers for others, and mounts: JSON-RPC, and varlink's `org.composefs.Oci` as far as reading goes. */
export function storeMethods(layers: CachedLayers, streams: LayerStreams, mounter: Mounter, log: Log): MethodTable {
  const store = new StoreMethods(layers, streams, log);
  return {
    jsonRpc: {
      GetSplitFDStream: (params, signal) => store.getSplitFdStream(params, signal),
      GetImage: (params) => store.getImage(params),
      status: () => store.status(),
      prefetch: (params, signal) => store.prefetch(params, signal),
      drop: (params) => store.drop(params),
      ...mountMethods(mounter),
    },
    varlink: {
      "org.composefs.Oci.GetInfo": async () => ({ result: { features: ["splitdirfdstream-v0", "read-only"] } }),
      "org.composefs.Oci.HasLayer": (params) => store.hasLayer(params),
      "org.composefs.Oci.GetLayer": (params, signal) => store.getLayer(params, signal),
    },
    varlinkError,
  };
}

class StoreMethods {
  readonly #layers: CachedLayers;
  readonly #streams: LayerStreams;
  readonly #log: Log;

  constructor(layers: CachedLayers, streams: LayerStreams, log: Log) {
    this.#layers = layers;
    this.#streams = streams;
    this.#log = log;
  }

  /** `{layerId}`: a diffID or a blob's digest → `{streamSize}`; descriptors: the stream, then the files. */
  async getSplitFdStream(params: Params, signal: AbortSignal): Promise<Answer> {
    const { sizeBytes, fds } = await this.#streams.splitFd(digestIn(params, "layerId"), signal);
    return { result: { streamSize: sizeBytes }, fds };
  }

  /**
   * `{imageId}`: a manifest's digest or a name → `{manifest, config, layerDigests}`, both documents as text. `layerDigests` are diffIDs,
   * base first, each good as a `layerId`.
   */
  async getImage(params: Params): Promise<Answer> {
    const imageId = textIn(params, "imageId");
    const path = this.#layers.cache.path;
    const [image] = (await CachedImages.read(path)).find(
      /^sha(256|512):/.test(imageId) ? parseDigest(imageId) : parseReference(imageId),
    );
    if (!image) throw new OcifsError("not-found", `image ${imageId}: the cache has no such image`);
    const directory = this.#layers.cache.imagePath(image.digest);
    const [manifest, config] = await Promise.all(
      ["manifest.json", "config.json"].map(async (name) => {
        return await readFile(join(directory, name)).catch((cause: Error) => {
          throw new OcifsError("not-found", `image ${imageId}: its ${name} is not in the cache: ${cause.message}`, {
            cause,
          });
        });
      }),
    );
    if (!manifest || !config) throw new OcifsError("internal", "GetImage: a document is missing");
    const { diffIds } = parseImageConfig(config, `image ${imageId}`);
    return { result: { manifest: manifest.toString("utf8"), config: config.toString("utf8"), layerDigests: diffIds } };
  }

  /** What the cache holds. */
  async status(): Promise<Answer> {
    const { path } = this.#layers.cache;
    const { images } = await CachedImages.read(path);
    const blobs = (await listBlobs(path)).map(({ digest, pinned, files }) => ({
      digest,
      pinned,
      allocatedBytes: files.reduce((sum, file) => sum + file.allocatedBytes, 0),
    }));
    return { result: { cache: path, images, blobs } };
  }

  /** `{image, insecure?}`: fetches all of an image → `{layers}`, the diffIDs. */
  async prefetch(params: Params, signal: AbortSignal): Promise<Answer> {
    const options = {
      source: textIn(params, "image"),
      insecure: params.insecure === true,
      verify: "blob" as const,
      cacheDir: this.#layers.cache.path,
    };
    await using image = await openMountableImage(options, this.#log, signal);
    const layers: Digest[] = [];
    for (const layer of image.layers) layers.push(await completeLayer(layer, signal));
    return { result: { layers } };
  }

  /** `{digest}` of a blob: gives back what the cache holds of it → `{freedBytes}`. */
  async drop(params: Params): Promise<Answer> {
    const digest = digestIn(params, "digest");
    const blob = await findBlob(this.#layers.cache.path, digest);
    if (!blob) throw new OcifsError("not-found", `blob ${digest}: the cache has nothing of it`);
    const freedBytes = blob.pinned ? undefined : await removeBlob(blob.path, "all");
    if (freedBytes === undefined) throw new OcifsError("busy", `blob ${digest}: it is in use or pinned`);
    await rm(this.#layers.cache.indexPath(digest), { recursive: true, force: true });
    return { result: { freedBytes } };
  }

  async hasLayer(params: Params): Promise<Answer> {
    return { result: { present: (await this.#layers.find(digestIn(params, "diff_id"))) !== undefined } };
  }

  /** Descriptors: the stream, one directory, and one to be closed when the layer is no longer needed. */
  async getLayer(params: Params, signal: AbortSignal): Promise<Answer> {
    const { fds } = await this.#streams.splitDirFd(digestIn(layerParams(params), "diff_id"), signal);
    return { result: { dir_count: 1 }, fds };
  }
}

/** Clients that read errors strictly want the fields of the interface's description. */
function varlinkError(error: OcifsError, params: Params): { readonly error: string; readonly parameters: object } {
  const message = messageOf(error);
  const of = (name: string, parameters: object) => ({ error: `org.composefs.Oci.${name}`, parameters });
  if (error.code === "not-found") return of("NoSuchLayer", { diff_id: String(layerParams(params).diff_id), message });
  return of(error.code === "usage" ? "InvalidRequest" : "InternalError", { message });
}

/** GetLayer has its parameters one level further down. */
function layerParams(params: Params): Params {
  return isParams(params.params) ? params.params : params;
}
