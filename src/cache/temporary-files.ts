import { fstatSync } from "node:fs";
import { type FileHandle, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { tryLock } from "../native/sparse.js";

/** Far behind any file's bytes, and behind what the span states lock. */
const CLAIM_BYTE = Number.MAX_SAFE_INTEGER - 1;

/**
 * Says of a file that is being made under a temporary name that its maker is alive: an OFD lock, which goes with the
 * descriptor, so it tells more than a pid, which may belong to somebody else or be of another namespace. Give the file its
 * lasting name before closing it. False when somebody took the file for a dead process' before it was claimed: make another.
 */
export function claimTemporary(fd: number): boolean {
  return tryLock(fd, CLAIM_BYTE, CLAIM_BYTE + 1, "exclusive") && fstatSync(fd).nlink > 0;
}

/**
 * Removes those files of `directory` that `isTemporary` and whose maker has died. A maker that has not claimed its file yet
 * loses it, and finds that out when it claims it. A directory that is not there has none.
 */
export async function removeLeftovers(directory: string, isTemporary: (name: string) => boolean): Promise<void> {
  for (const name of (await namesIn(directory)).filter(isTemporary)) {
    const path = join(directory, name);
    try {
      const file = await openIfThere(path);
      if (!file) continue;
      try {
        if (tryLock(file.fd, CLAIM_BYTE, CLAIM_BYTE + 1, "exclusive")) await rm(path, { force: true });
      } finally {
        await file.close();
      }
    } catch (cause) {
      if (cause instanceof OcifsError) throw cause;
      throw new OcifsError("io", `cache: cannot remove ${path}: ${messageOf(cause)}`, { cause });
    }
  }
}

async function namesIn(directory: string): Promise<readonly string[]> {
  try {
    return await readdir(directory);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new OcifsError("io", `cache: cannot list ${directory}: ${messageOf(cause)}`, { cause });
  }
}

/** Its maker may have ended, one way or the other, since the directory was read. */
async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    // An exclusive lock needs a descriptor that may write.
    return await open(path, "r+");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
