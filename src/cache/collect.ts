import { rm } from "node:fs/promises";
import { join } from "node:path";
import { pathExists } from "../base/path-exists.js";
import { treeUsage } from "../native/sparse.js";
import { algorithmOf, type Digest, hexOf } from "../oci/digest.js";
import { digestsIn, listBlobs, listFiles, namesIn, removeBlob, removeIfEmpty } from "./cached-blobs.js";
import { CachedImages } from "./cached-images.js";
import { giveUpForeignCompressed, giveUpUnused } from "./evict.js";

/** A temporary file whose name has no process in it belongs to a dead one when it is older; index creation takes hours at most. */
const ABANDONED_MS = 24 * 3_600_000;

/** What a collection did. Bytes as they were on disk. */
export interface Collected {
  readonly leftovers: number;
  readonly blobs: number;
  readonly freedBytes: number;
  /** What the cache takes up now. */
  readonly usedBytes: number;
}

/**
 * Removes leftovers of dead processes and blobs that nobody uses and for which there is neither an index nor an image. With a size it
 * then evicts until the cache takes up no more: blobs that nobody uses, what those in use can do without, then indexes
 * and image records that no process can be using. Resolves also when that was not enough.
 */
export async function collectGarbage(cachePath: string, sizeBytes?: number): Promise<Collected> {
  const before = await treeUsage(cachePath);
  const leftovers = await removeLeftovers(cachePath);
  const images = await CachedImages.read(cachePath);
  let blobs = 0;
  for (const { digest, path, pinned } of await listBlobs(cachePath)) {
    if (pinned || images.usersOf(digest).length > 0 || (await pathExists(indexPath(cachePath, digest)))) continue;
    if ((await removeBlob(path, "all")) !== undefined) blobs += 1;
  }
  if (sizeBytes !== undefined) await shrink(cachePath, sizeBytes);
  const usedBytes = await treeUsage(cachePath);
  return { leftovers, blobs, freedBytes: Math.max(0, before - usedBytes), usedBytes };
}

/** Removes the index of a blob. */
export async function removeIndex(cachePath: string, digest: Digest): Promise<void> {
  await rm(indexPath(cachePath, digest), { recursive: true, force: true });
}

async function shrink(cachePath: string, sizeBytes: number): Promise<void> {
  const over = async () => (await treeUsage(cachePath)) - sizeBytes;
  for (const giveUp of [giveUpUnused, giveUpForeignCompressed]) {
    const bytes = await over();
    if (bytes > 0) await giveUp(cachePath, bytes);
  }
  // An index costs a whole download to make again, so it goes last, and only when its blob is gone: in nobody's use, that is.
  const kept = new Set((await listBlobs(cachePath)).map((blob) => blob.digest));
  for (const digest of await digestsIn(cachePath, "indexes")) {
    if ((await over()) <= 0) return;
    if (!kept.has(digest)) await removeIndex(cachePath, digest);
  }
  const images = await CachedImages.read(cachePath);
  for (const image of images.images) {
    if ((await over()) <= 0) return;
    if (image.layers.some((layer) => kept.has(layer))) continue;
    for (const path of images.recordsOf(cachePath, [image])) await rm(path, { recursive: true, force: true });
  }
}

async function removeLeftovers(cachePath: string): Promise<number> {
  let removed = 0;
  const directories = [cachePath, join(cachePath, "refs")];
  for (const kind of ["blobs", "indexes", "images"]) {
    for (const algorithm of await namesIn(join(cachePath, kind))) {
      for (const hex of await namesIn(join(cachePath, kind, algorithm))) {
        directories.push(join(cachePath, kind, algorithm, hex));
      }
    }
  }
  for (const directory of directories) {
    for (const { name, modifiedMs } of await listFiles(directory)) {
      if (!(await isLeftover(name, modifiedMs))) continue;
      await rm(join(directory, name), { force: true });
      removed += 1;
    }
    // Of a removal that was cut short. Whoever opens a blob makes its directory again; others could not.
    if (directory.startsWith(join(cachePath, "blobs"))) await removeIfEmpty(directory);
  }
  return removed;
}

/** `.probe-PID-…` and `….verified.PID` name their process; `.….tmp` does not. */
async function isLeftover(name: string, modifiedMs: number): Promise<boolean> {
  const pid = /^\.probe-(\d+)-|\.verified\.(\d+)$/.exec(name);
  if (pid) return !(await pathExists(`/proc/${pid[1] ?? pid[2]}`));
  return name.startsWith(".") && name.endsWith(".tmp") && Date.now() - modifiedMs > ABANDONED_MS;
}

function indexPath(cachePath: string, digest: Digest): string {
  return join(cachePath, "indexes", algorithmOf(digest), hexOf(digest));
}
