import { createHash } from "node:crypto";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { OpenSource } from "../image/open-source.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { layerEncodingOf } from "../oci/media-types.js";
import { formatReference, parseReference } from "../oci/reference.js";
import type { LazyLayer } from "./snapshot-record.js";

/** Labels that clients of containerd set on a snapshot that is to hold a layer: its chainID, and the image it is of. */
export const snapshotLabels = {
  ref: "containerd.io/snapshot.ref",
  imageRef: "containerd.io/snapshot/cri.image-ref",
  manifestDigest: "containerd.io/snapshot/cri.manifest-digest",
  layerDigest: "containerd.io/snapshot/cri.layer-digest",
  imageLayers: "containerd.io/snapshot/cri.image-layers",
} as const;

/** What is known of an image: the digests that its layers' chains have, and their blobs, lowest first. */
interface KnownImage {
  readonly source: string;
  readonly manifest: Digest;
  readonly chainIds: readonly string[];
  readonly blobs: readonly Digest[];
}

export interface LazyImagesOptions {
  readonly cache: CacheDirectory;
  readonly isInsecure: (registry: string) => boolean;
  readonly timeoutMs: number;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** Finds out which layer of which image a snapshot is to hold. */
export class LazyImages {
  readonly #options: LazyImagesOptions;
  /** Oldest first. */
  readonly #known = new Map<string, Promise<KnownImage>>();

  constructor(options: LazyImagesOptions) {
    this.#options = options;
  }

  /**
   * The layer that the labels speak of. Undefined when they do not name an image. Whatever is wrong with the image is thrown:
   * then it cannot be mounted. The labels are not believed: the image's config decides which chainID each layer has.
   */
  async layerOf(chainId: string, labels: Readonly<Record<string, string>>): Promise<LazyLayer | undefined> {
    const reference = labels[snapshotLabels.imageRef];
    const digest = labels[snapshotLabels.manifestDigest];
    if (reference === undefined || digest === undefined) return undefined;
    const { registry, repository } = parseReference(reference);
    const source = formatReference({ registry, repository, digest: parseDigest(digest) });
    const image = await this.#imageOf(source, registry);
    const layer = image.chainIds.indexOf(chainId);
    const blob = image.blobs[layer];
    if (blob === undefined) {
      throw new OcifsError(
        "mismatch",
        `${source}: none of its ${image.blobs.length} layers has the chainID ${chainId}`,
      );
    }
    return { source, manifest: image.manifest, layer, layers: image.blobs.length, blob };
  }

  #imageOf(source: string, registry: string): Promise<KnownImage> {
    const known = this.#known.get(source);
    if (known !== undefined) return known;
    const asked = this.#ask(source, registry);
    this.#known.set(source, asked);
    // The next layer's pull may have more luck.
    asked.catch(() => this.#known.delete(source));
    const [oldest] = this.#known.keys();
    if (oldest !== undefined && this.#known.size > limits.snapshotImages) this.#known.delete(oldest);
    return asked;
  }

  async #ask(source: string, registry: string): Promise<KnownImage> {
    const { cache, isInsecure, timeoutMs, log, signal } = this.#options;
    const options = { source, insecure: isInsecure(registry), timeoutMs };
    await using image = await OpenSource.open(options, signal, { cache, log });
    const { resolved } = image;
    if (resolved === undefined) throw new OcifsError("internal", `${source}: a registry's image without a manifest`);
    const chainIds: string[] = [];
    for (const [number, { mediaType }] of resolved.manifest.layers.entries()) {
      layerEncodingOf(mediaType);
      const diffId = await image.fetchDiffId(number, signal);
      if (diffId === undefined) throw new OcifsError("mismatch", `${source}: its config has no diffID ${number}`);
      chainIds.push(chainIdOf(chainIds.at(-1), diffId));
    }
    return {
      source,
      manifest: resolved.manifestDigest,
      chainIds,
      blobs: resolved.manifest.layers.map((l) => l.digest),
    };
  }
}

/** OCI image spec, config.md: the chainID of a layer on what `below` names. */
export function chainIdOf(below: string | undefined, diffId: Digest): string {
  if (below === undefined) return diffId;
  return `sha256:${createHash("sha256").update(`${below} ${diffId}`).digest("hex")}`;
}
