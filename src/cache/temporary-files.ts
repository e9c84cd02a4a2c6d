import { fstatSync } from "node:fs";
import { type FileHandle, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { tryLock } from "../native/sparse.js";

/** Far behind any file's bytes, and behind what the span states lock. */
const CLAIM_BYTE = Number.MAX_SAFE_INTEGER - 1;

/** Names that are taken away before they are claimed this often: somebody removes all new files. */
const MAX_TRIES = 100;

/**
 * Says of a file that was just made under a temporary name that its maker is alive: an OFD lock, which goes with the
 * descriptor, so it tells more than a pid, which may belong to somebody else or be of another namespace. False when
 * the name was taken for a leftover in between: make another.
 */
export function claimTemporary(fd: number): boolean {
  // Who removes it holds the same lock while it does; with the lock and a name it is safe.
  return tryLock(fd, CLAIM_BYTE, CLAIM_BYTE + 1, "exclusive") && fstatSync(fd).nlink > 0;
}

/** Makes files with `create` until one is claimed; `discard` closes what was not. */
export async function createClaimed<T>(
  create: () => Promise<T>,
  fdOf: (made: T) => number,
  discard: (made: T) => Promise<void>,
): Promise<T> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const made = await create();
    let claimed = false;
    try {
      claimed = claimTemporary(fdOf(made));
      if (claimed) return made;
    } finally {
      if (!claimed) await discard(made);
    }
  }
  throw new OcifsError("busy", "cache: its new files are removed as fast as they are made");
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
