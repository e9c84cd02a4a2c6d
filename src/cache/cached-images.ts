import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { algorithmOf, type Digest, hexOf, parseDigest } from "../oci/digest.js";
import { parseJsonObject } from "../oci/json.js";
import { type ImageIndex, type ImageManifest, parseManifest } from "../oci/manifest.js";
import type { Reference } from "../oci/reference.js";
import { digestsIn, listFiles } from "./cached-blobs.js";

/** An image whose manifest is in the cache. */
export interface CachedImage {
  readonly digest: Digest;
  /** `registry/repository:tag` of every tag that led to it when it was last looked up. */
  readonly names: readonly string[];
  readonly layers: readonly Digest[];
}

/** A record of what a tag led to. */
interface CachedTag {
  readonly path: string;
  readonly registry: string;
  readonly repository: string;
  readonly tag: string;
  readonly digest: Digest;
}

/** What is known of images in the cache. Records that cannot be read count as absent: they serve no mount either. */
export class CachedImages {
  readonly images: readonly CachedImage[];
  readonly #documents: ReadonlyMap<Digest, ImageManifest | ImageIndex>;
  readonly #tags: readonly CachedTag[];

  private constructor(documents: ReadonlyMap<Digest, ImageManifest | ImageIndex>, tags: readonly CachedTag[]) {
    this.#documents = documents;
    this.#tags = tags;
    this.images = [...documents].flatMap(([digest, document]) => {
      if (document.kind === "index") return [];
      const names = tags.filter((tag) => this.#manifestsOf(tag.digest).includes(digest)).map(nameOf);
      return [{ digest, names: [...new Set(names)].sort(), layers: document.layers.map((layer) => layer.digest) }];
    });
  }

  static async read(cachePath: string): Promise<CachedImages> {
    const documents = new Map<Digest, ImageManifest | ImageIndex>();
    for (const digest of await digestsIn(cachePath, "images")) {
      const document = await readDocument(join(imagePath(cachePath, digest), "manifest.json"));
      if (document) documents.set(digest, document);
    }
    const tags: CachedTag[] = [];
    const refs = join(cachePath, "refs");
    for (const { name } of await listFiles(refs)) {
      const tag = name.startsWith(".") ? undefined : await readTag(join(refs, name));
      if (tag) tags.push(tag);
    }
    return new CachedImages(documents, tags);
  }

  /** The images of a blob: those that have it as a layer. */
  usersOf(blob: Digest): CachedImage[] {
    return this.images.filter((image) => image.layers.includes(blob));
  }

  /** The images that a digest of a manifest or index, or a name, stands for. */
  find(what: Digest | Reference): CachedImage[] {
    const roots =
      typeof what === "string"
        ? [what]
        : [what.digest, ...this.#tags.filter((tag) => isOf(tag, what)).map((tag) => tag.digest)].filter(
            (digest) => digest !== undefined,
          );
    const wanted = new Set(roots.flatMap((root) => this.#manifestsOf(root)));
    return this.images.filter((image) => wanted.has(image.digest));
  }

  /** What is kept of images beside their blobs, to be removed when they are: directories and files. */
  recordsOf(cachePath: string, images: readonly CachedImage[]): string[] {
    const gone = new Set(images.map((image) => image.digest));
    // An index goes with the last of its images.
    for (const [digest, document] of this.#documents) {
      const manifests = this.#manifestsOf(digest);
      if (document.kind === "index" && manifests.every((manifest) => gone.has(manifest))) gone.add(digest);
    }
    const tags = this.#tags.filter((tag) => gone.has(tag.digest)).map((tag) => tag.path);
    return [...tags, ...[...gone].map((digest) => imagePath(cachePath, digest))];
  }

  /** Digests of the manifests in the cache that a root leads to. */
  #manifestsOf(root: Digest): Digest[] {
    const document = this.#documents.get(root);
    if (!document) return [];
    if (document.kind === "manifest") return [root];
    return document.manifests
      .map((entry) => entry.digest)
      .filter((digest) => this.#documents.get(digest)?.kind === "manifest");
  }
}

function imagePath(cachePath: string, digest: Digest): string {
  return join(cachePath, "images", algorithmOf(digest), hexOf(digest));
}

function nameOf({ registry, repository, tag }: CachedTag): string {
  return `${registry}/${repository}:${tag}`;
}

function isOf(tag: CachedTag, { registry, repository, tag: wanted }: Reference): boolean {
  return tag.registry === registry && tag.repository === repository && tag.tag === wanted;
}

async function readDocument(path: string): Promise<ImageManifest | ImageIndex | undefined> {
  return await unlessDamaged(path, (bytes) => parseManifest(bytes, path));
}

async function readTag(path: string): Promise<CachedTag | undefined> {
  return await unlessDamaged(path, (bytes) => {
    const { registry, repository, tag, digest } = parseJsonObject(bytes, path);
    if (typeof registry !== "string" || typeof repository !== "string" || typeof tag !== "string") {
      throw new OcifsError("corrupt", `${path}: want registry, repository and tag`);
    }
    return { path, registry, repository, tag, digest: parseDigest(String(digest)) };
  });
}

async function unlessDamaged<T>(path: string, parse: (bytes: Uint8Array) => T): Promise<T | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new OcifsError("io", `${path}: ${messageOf(error)}`, { cause: error });
  }
  try {
    return parse(bytes);
  } catch (error) {
    if (isOcifsError(error)) return undefined;
    throw error;
  }
}
