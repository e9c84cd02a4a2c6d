import { join } from "node:path";
import type { BlobSource } from "../blob/blob-source.js";
import type { BlobUse } from "../cache/blob-use.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { CompressedFile } from "../cache/compressed-file.js";
import { closeFd, openFd } from "../cache/raw-file.js";
import type { WholeFile } from "../cache/verified-marks.js";
import { cacheKeyOf, type SpanTable } from "./span-table.js";

/** A layer's files in the cache, and the mark that they are in use. */
export interface LayerFiles extends AsyncDisposable {
  readonly use: BlobUse;
  /** Where they are. */
  readonly directory: string;
  /** The part of the names of `data-<key>` and `spans-<key>`: stands for the span table. */
  readonly key: string;
  readonly compressed: CompressedFile;
}

/**
 * Opens or creates the blob's three cache files. `data` and `spans` carry the span table's identity in their names: what
 * one index decodes, right or wrong, never reaches mounts that use another. The descriptors in `fds` go to the SpanStore.
 */
export async function openLayerFiles(
  cache: CacheDirectory,
  source: BlobSource,
  table: SpanTable,
): Promise<{ readonly files: LayerFiles; readonly fds: { readonly dataFd: number; readonly spansFd: number } }> {
  const use = await cache.useBlob(source.digest);
  const directory = use.path;
  const key = cacheKeyOf(table);
  const dataName: WholeFile = `data-${key}`;
  const opened: number[] = [];
  let compressed: CompressedFile | undefined;
  try {
    const file = await CompressedFile.open(join(directory, "compressed"), source.sizeBytes);
    compressed = file;
    const dataFd = await openFd(join(directory, dataName), "create");
    opened.push(dataFd);
    const spansFd = await openFd(join(directory, `spans-${key}`), "create");
    const close = async () => {
      await file[Symbol.asyncDispose]();
      await use[Symbol.asyncDispose]();
    };
    return { files: { use, directory, key, compressed: file, [Symbol.asyncDispose]: close }, fds: { dataFd, spansFd } };
  } catch (error) {
    for (const fd of opened) await closeFd(fd);
    await compressed?.[Symbol.asyncDispose]();
    await use[Symbol.asyncDispose]();
    throw error;
  }
}
