import { open } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { clearVerified, markVerified } from "../cache/verified-marks.js";
import { dataRanges } from "../native/sparse.js";
import type { WholeCacheFile } from "./layer-build.js";

/**
 * Flushes cache files that a build left whole, and marks them so. One after another and not on the way to the mount: flushing
 * takes as long as the disk does. Never fails: without the mark the bytes are checked again some day.
 */
export async function markWholeFiles(files: readonly WholeCacheFile[], log: Log): Promise<void> {
  for (const file of files) {
    try {
      await markWhole(file);
    } catch (error) {
      log.warn("a cache file that is whole could not be marked so", { file: file.name, reason: messageOf(error) });
    }
  }
}

async function markWhole({ directory, name, sizeBytes, digest }: WholeCacheFile): Promise<void> {
  await using file = await open(join(directory, name), "r");
  await file.datasync();
  await markVerified(directory, name, digest);
  // Somebody may have evicted some of it before there was a mark to take away.
  const [all] = dataRanges(file.fd, 0, sizeBytes);
  if (all?.begin !== 0 || all.end !== sizeBytes) await clearVerified(directory, name);
}
