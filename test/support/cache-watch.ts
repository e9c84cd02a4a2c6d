import { watch } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { type Digest, hexOf } from "../../src/oci/digest.js";

/** Where a cache directory keeps a blob. */
export function blobDirectory(cache: string, digest: Digest): string {
  return join(cache, "blobs", "sha256", hexOf(digest));
}

/** Bytes of a blob that a cache directory holds. */
export async function cachedBytes(cache: string, digest: Digest, sizeBytes: number): Promise<number> {
  await using file = await CompressedFile.open(join(blobDirectory(cache, digest), "compressed"), sizeBytes);
  return file.presentBytes();
}

/** Begins to watch at once; `reached` resolves when the cache directory holds that many bytes of the blob. */
export async function watchCachedBytes(
  cache: string,
  digest: Digest,
  sizeBytes: number,
  wantedBytes: number,
): Promise<{ reached: Promise<void> }> {
  const directory = blobDirectory(cache, digest);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const watcher = watch(directory);
  const reached = new Promise<void>((resolve, reject) => {
    const look = async () => {
      try {
        if ((await cachedBytes(cache, digest, sizeBytes)) < wantedBytes) return;
        watcher.close();
        resolve();
      } catch (error) {
        watcher.close();
        reject(error);
      }
    };
    watcher.on("change", (_, name) => {
      if (String(name) === "compressed") void look();
    });
    watcher.on("error", reject);
  });
  return { reached };
}
