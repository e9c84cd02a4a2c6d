import { readdir, rm, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { treeUsage } from "../native/sparse.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { BlobUse, PIN_FILE, USE_FILE } from "./blob-use.js";

/** Directories of a blob with files of its layer, whole, for others; see docs/FORMATS.md. */
export const CONTENT_PREFIX = "content-";

/** Bytes by the size that a file says it has, and by what it takes up on disk. */
export interface FileSize {
  readonly name: string;
  readonly apparentBytes: number;
  readonly allocatedBytes: number;
  readonly modifiedMs: number;
}

/** One blob's directory as it is found. */
export interface CachedBlob {
  readonly digest: Digest;
  readonly path: string;
  readonly files: readonly FileSize[];
  /** Last opened, closed or fetched into, in ms since the epoch; 0 when nobody noted it. */
  readonly lastUsedMs: number;
  readonly pinned: boolean;
}

/** Files of a directory, without what is in its subdirectories; none when it is not there. */
export async function listFiles(directory: string): Promise<FileSize[]> {
  const files: FileSize[] = [];
  for (const name of await namesIn(directory)) {
    const info = await statIfThere(join(directory, name));
    if (info?.isFile()) {
      files.push({
        name,
        apparentBytes: info.size,
        allocatedBytes: info.blocks * 512,
        modifiedMs: info.mtimeMs,
      });
    }
  }
  return files;
}

/** Every digest that has a directory below `kind` (`blobs`, `indexes`, `images`) of the cache, in no order. */
export async function digestsIn(cachePath: string, kind: string): Promise<Digest[]> {
  const found: Digest[] = [];
  for (const algorithm of await namesIn(join(cachePath, kind))) {
    for (const hex of await namesIn(join(cachePath, kind, algorithm))) {
      const digest = toDigest(`${algorithm}:${hex}`);
      if (digest) found.push(digest);
    }
  }
  return found;
}

/** Undefined when there is nothing of the blob. */
export async function findBlob(cachePath: string, digest: Digest): Promise<CachedBlob | undefined> {
  const [algorithm = "", hex = ""] = digest.split(":");
  const path = join(cachePath, "blobs", algorithm, hex);
  const files = await listFiles(path);
  if (files.length === 0) return undefined;
  const lastUsedMs = files.find((file) => file.name === USE_FILE)?.modifiedMs ?? 0;
  return { digest, path, files, lastUsedMs, pinned: files.some((file) => file.name === PIN_FILE) };
}

/** All blobs of a cache, least recently used first. */
export async function listBlobs(cachePath: string): Promise<CachedBlob[]> {
  const blobs: CachedBlob[] = [];
  for (const digest of await digestsIn(cachePath, "blobs")) {
    const blob = await findBlob(cachePath, digest);
    if (blob) blobs.push(blob);
  }
  return blobs.sort((a, b) => a.lastUsedMs - b.lastUsedMs);
}

/**
 * Removes a blob's files that nobody uses: what was fetched, or everything. Resolves to the bytes that were on disk, or to
 * undefined when somebody uses the blob. Marks go before what they speak of, states before data.
 */
export async function removeBlob(path: string, what: "compressed" | "all"): Promise<number | undefined> {
  const taken = await BlobUse.tryTake(path);
  if (!taken) return undefined;
  await using _ = taken;
  const rank = ({ name }: FileSize) =>
    name.endsWith(".verified") ? 0 : name.startsWith("spans-") ? 1 : name === USE_FILE ? 3 : 2;
  const files = (await listFiles(path))
    .filter(({ name }) => what === "all" || name === "compressed" || name === "compressed.verified")
    .sort((a, b) => rank(a) - rank(b));
  let bytes = 0;
  for (const { name, allocatedBytes } of files) {
    await rm(join(path, name), { force: true });
    bytes += allocatedBytes;
  }
  if (what === "compressed") return bytes;
  for (const name of (await namesIn(path)).filter((each) => each.startsWith(CONTENT_PREFIX))) {
    bytes += await treeUsage(join(path, name));
    await rm(join(path, name), { recursive: true, force: true });
  }
  await removeIfEmpty(path);
  return bytes;
}

/** Whether another open file holds the blob. */
export async function isInUse(path: string): Promise<boolean> {
  const taken = await BlobUse.tryTake(path);
  await taken?.[Symbol.asyncDispose]();
  return taken === undefined;
}

/** Somebody may put something into it meanwhile. */
export async function removeIfEmpty(path: string): Promise<void> {
  try {
    await rmdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOTEMPTY" && code !== "ENOENT") {
      throw new OcifsError("io", `remove ${path}: ${messageOf(error)}`, { cause: error });
    }
  }
}

export async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw new OcifsError("io", `list ${directory}: ${messageOf(error)}`, { cause: error });
  }
}

async function statIfThere(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new OcifsError("io", `stat ${path}: ${messageOf(error)}`, { cause: error });
  }
}

function toDigest(text: string): Digest | undefined {
  try {
    return parseDigest(text);
  } catch {
    // Something else that was put there.
    return undefined;
  }
}
