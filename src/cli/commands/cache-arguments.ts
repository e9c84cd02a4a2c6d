import { rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Argv } from "yargs";
import { OcifsError } from "../../base/errors.js";
import { PIN_FILE } from "../../cache/blob-use.js";
import { type CachedBlob, findBlob } from "../../cache/cached-blobs.js";
import { type CachedImage, CachedImages } from "../../cache/cached-images.js";
import { defaultCacheDirectory } from "../../cache/default-directory.js";
import { type Digest, parseDigest } from "../../oci/digest.js";
import { parseReference } from "../../oci/reference.js";

/** Adds `--cachedir`. */
export function cacheOption<T>(yargs: Argv<T>): Argv<T & { cachedir: string | undefined }> {
  return yargs.option("cachedir", {
    type: "string",
    requiresArg: true,
    describe: "Which cache; default: this user's",
  }) as Argv<T & { cachedir: string | undefined }>;
}

export function cachePathOf(args: { cachedir: string | undefined }): string {
  return resolve(args.cachedir ?? defaultCacheDirectory());
}

/** What words on the command line stand for: blobs, and the images whose layers they are. */
export interface Selection {
  readonly blobs: readonly CachedBlob[];
  /** Digests, also of blobs of which only an index is there. */
  readonly digests: readonly Digest[];
  readonly images: readonly CachedImage[];
}

/**
 * A digest names a blob, a manifest or an index of images; anything else is an image reference as it was mounted. `not-found` when the
 * cache knows nothing of it.
 */
export async function select(cachePath: string, words: readonly string[]): Promise<Selection> {
  const known = await CachedImages.read(cachePath);
  const digests = new Set<Digest>();
  const images = new Set<CachedImage>();
  for (const word of words) {
    const digest = /^sha(256|512):/.test(word) ? parseDigest(word) : undefined;
    const found = known.find(digest ?? parseReference(word));
    for (const image of found) {
      images.add(image);
      for (const layer of image.layers) digests.add(layer);
    }
    if (found.length > 0) continue;
    if (digest === undefined) {
      throw new OcifsError("not-found", `${word}: no such image in the cache ${cachePath}; see "ocifs cache ls"`);
    }
    digests.add(digest);
  }
  const blobs: CachedBlob[] = [];
  for (const digest of digests) {
    const blob = await findBlob(cachePath, digest);
    if (blob) blobs.push(blob);
  }
  return { blobs, digests: [...digests], images: [...images] };
}

/** Keeps a blob from eviction, or no longer. */
export async function setPinned(blob: CachedBlob, pinned: boolean): Promise<void> {
  const path = join(blob.path, PIN_FILE);
  if (pinned) await writeFile(path, "", { mode: 0o600 });
  else await rm(path, { force: true });
}
