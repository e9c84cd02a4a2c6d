import { join } from "node:path";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { checkConfigOfManifest, type ImageConfig, parseImageConfig } from "../oci/config.js";
import type { Descriptor } from "../oci/descriptor.js";
import { algorithmOf, type Digest, hexOf } from "../oci/digest.js";
import { asString, parseJsonObject } from "../oci/json.js";
import { choosePlatform, type ImageIndex, parseManifest } from "../oci/manifest.js";
import { mediaTypes } from "../oci/media-types.js";
import type { Platform } from "../oci/platform.js";
import { resolveImage } from "../oci/resolve.js";
import type { ResolvedImage } from "../oci/resolved-image.js";
import { checkContent } from "../oci/verify.js";
import { type FileBlobSource, openFileBlob } from "./file.js";
import type { ImageProvider } from "./image-provider.js";
import { readSmallFile } from "./regular-file.js";

const refNameAnnotation = "org.opencontainers.image.ref.name";

/** Which image of a layout: by tag, by digest, or the only one. */
export interface LayoutSelector {
  readonly tag?: string;
  readonly digest?: Digest;
}

/**
 * Opens an OCI image layout directory (`image-layout.md`). Throws `not-found` when it is none, `corrupt`, or `unsupported`
 * for a layout version other than 1.
 */
export async function openOciLayout(
  directory: string,
  selector: LayoutSelector = {},
  signal?: AbortSignal,
): Promise<OciLayoutImage> {
  const what = `OCI layout ${directory}`;
  const marker = await readSmallFile(join(directory, "oci-layout"), limits.manifestBytes, signal);
  const version = asString(
    parseJsonObject(marker, `${what}: oci-layout`).imageLayoutVersion,
    `${what}: imageLayoutVersion`,
  );
  if (!version.startsWith("1.")) {
    throw new OcifsError(
      "unsupported",
      `${what}: imageLayoutVersion ${JSON.stringify(version.slice(0, 20))}; want 1.x`,
    );
  }
  const bytes = await readSmallFile(join(directory, "index.json"), limits.manifestBytes, signal);
  const index = parseManifest(bytes, `${what}: index.json`, mediaTypes.ociIndex);
  if (index.kind !== "index") throw new OcifsError("corrupt", `${what}: index.json is not an image index`);
  return new OciLayoutImage(directory, index, selector);
}

export class OciLayoutImage implements ImageProvider {
  readonly description: string;
  readonly #directory: string;
  readonly #index: ImageIndex;
  readonly #selector: LayoutSelector;
  readonly #open = new Set<FileBlobSource>();
  #closed = false;

  constructor(directory: string, index: ImageIndex, selector: LayoutSelector) {
    const { tag, digest } = selector;
    const suffix = `${tag === undefined ? "" : `:${tag}`}${digest === undefined ? "" : `@${digest}`}`;
    this.description = `OCI layout ${directory}${suffix}`;
    this.#directory = directory;
    this.#index = index;
    this.#selector = selector;
  }

  async resolve(platform: Platform, signal?: AbortSignal): Promise<ResolvedImage> {
    const entry = this.#select(platform);
    const what = this.description;
    const bytes = await this.#read(entry, limits.manifestBytes, signal);
    checkContent(bytes, entry, `${what}: ${entry.digest}`);
    const root = { bytes, digest: entry.digest, declaredType: entry.mediaType };
    return await resolveImage(root, platform, what, (descriptor) =>
      this.#read(descriptor, limits.manifestBytes, signal),
    );
  }

  async fetchConfig(image: ResolvedImage, signal?: AbortSignal): Promise<ImageConfig> {
    const { config } = image.manifest;
    const what = `${this.description}: config ${config.digest}`;
    const bytes = await this.#read(config, limits.configBytes, signal);
    checkContent(bytes, config, what);
    const parsed = parseImageConfig(bytes, what);
    checkConfigOfManifest(parsed, image.manifest, what);
    return parsed;
  }

  async openBlob(descriptor: Descriptor): Promise<FileBlobSource> {
    if (this.#closed) throw new OcifsError("aborted", `${this.description}: it is closed`);
    const { digest, sizeBytes } = descriptor;
    const blob = await openFileBlob(this.#pathOf(digest), { digest, sizeBytes });
    for (const earlier of this.#open) if (earlier.closed) this.#open.delete(earlier);
    this.#open.add(blob);
    return blob;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#open].map((blob) => blob[Symbol.asyncDispose]()));
    this.#open.clear();
  }

  /** A digest may name any content of the layout that its index lists; a tag is an annotation of the index. */
  #select(platform: Platform): Descriptor {
    const { tag, digest } = this.#selector;
    const { manifests } = this.#index;
    const matching = manifests.filter(
      (entry) =>
        (tag === undefined || entry.annotations.get(refNameAnnotation) === tag) &&
        (digest === undefined || entry.digest === digest),
    );
    const [first, ...others] = matching;
    if (first === undefined) {
      const names = this.#tags();
      throw new OcifsError("not-found", `${this.description}: no such image; there is ${names || "none with a tag"}`);
    }
    if (others.every((entry) => entry.digest === first.digest)) return first;
    // The images of one tag, or of a layout without tags, may be those of several platforms.
    if (tag !== undefined || this.#tags() === "") {
      return choosePlatform({ ...this.#index, manifests: matching }, platform, this.description);
    }
    throw new OcifsError("usage", `${this.description}: holds several images, choose one of ${this.#tags()}`);
  }

  #tags(): string {
    const names = this.#index.manifests.map((entry) => entry.annotations.get(refNameAnnotation));
    return [...new Set(names.filter((name) => name !== undefined))].slice(0, 20).join(", ");
  }

  async #read(descriptor: Descriptor, maxBytes: number, signal?: AbortSignal): Promise<Uint8Array> {
    return await readSmallFile(this.#pathOf(descriptor.digest), maxBytes, signal);
  }

  /** Safe whatever the index says: a Digest is an algorithm that we know and hex digits. */
  #pathOf(digest: Digest): string {
    return join(this.#directory, "blobs", algorithmOf(digest), hexOf(digest));
  }
}
