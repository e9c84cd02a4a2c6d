import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isOcifsError, OcifsError, throwIfAborted } from "../base/errors.js";
import { createClaimed } from "../cache/temporary-files.js";
import { algorithmOf, type Digest, hexOf } from "../oci/digest.js";
import { digestOfReads } from "../oci/digest-stream.js";
import type { IndexedFile } from "./manifest.js";

/** The three files of one layer's index. */
export interface IndexPaths {
  readonly tarindexPath: string;
  readonly zinfoPath: string;
  readonly jsonPath: string;
}

/**
 * `<algorithm>-<hex>.tarindex` and so on: a digest's colon has a meaning of its own in mount options and in lists of paths.
 */
export function indexPathsIn(directory: string, blob: Digest): IndexPaths {
  const stem = join(directory, `${algorithmOf(blob)}-${hexOf(blob)}`);
  return { tarindexPath: `${stem}.tarindex`, zinfoPath: `${stem}.zinfo`, jsonPath: `${stem}.json` };
}

/** Names that `PendingFiles` gives to files before they are whole. */
export function isPendingFile(name: string): boolean {
  return name.startsWith(".") && name.endsWith(".tmp");
}

const readBytes = 1 << 20;

/** A failed system call as an OcifsError (`no-space` or `io`) that says what was being done; anything else as it is. */
export function fromSystemError(error: unknown, operation: string): unknown {
  if (isOcifsError(error) || !(error instanceof Error) || !("errno" in error) || !("code" in error)) return error;
  const full = error.code === "ENOSPC" || error.code === "EDQUOT";
  return new OcifsError(full ? "no-space" : "io", `${operation}: ${error.message}`, { cause: error });
}

/** SHA-256 and size of an open file, read from its start. */
export async function digestOfFile(file: FileHandle, signal?: AbortSignal): Promise<IndexedFile> {
  let buffer = Buffer.allocUnsafe(readBytes);
  let other = Buffer.allocUnsafe(readBytes);
  return await digestOfReads("sha256", async (position) => {
    throwIfAborted(signal, "index digest");
    const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
    const bytes = buffer.subarray(0, bytesRead);
    [buffer, other] = [other, buffer];
    return bytes;
  });
}

/**
 * Files that appear under their names together or not at all: written beside their final names, synced, then renamed in the order they
 * were created, so the last one's presence says that all are there. Disposing before `commit` removes them.
 */
export class PendingFiles implements AsyncDisposable {
  readonly #files: { path: string; temporaryPath: string; handle: FileHandle }[] = [];
  readonly #claimed: boolean;

  /**
   * `claimed`, in a cache: what a killed process leaves behind can be told from what is being made; see `removeLeftovers`. Such
   * files are for their owner only.
   */
  constructor(options: { readonly claimed?: boolean } = {}) {
    this.#claimed = options.claimed ?? false;
  }

  /** An empty file, open for reading and writing until `commit` or disposal. Throws `io`. */
  async create(path: string): Promise<FileHandle> {
    const make = async () => {
      const temporaryPath = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.tmp`);
      return { path, temporaryPath, handle: await open(temporaryPath, "wx+", this.#claimed ? 0o600 : 0o644) };
    };
    try {
      const file = this.#claimed
        ? await createClaimed(
            make,
            ({ handle }) => handle.fd,
            ({ handle }) => handle.close(),
          )
        : await make();
      this.#files.push(file);
      return file.handle;
    } catch (error) {
      throw fromSystemError(error, `index create ${path}`);
    }
  }

  /** Syncs, renames and closes all. What was renamed is removed again when a later rename fails. */
  async commit(): Promise<void> {
    const renamed: string[] = [];
    try {
      for (const { handle } of this.#files) await handle.sync();
      for (const { path, temporaryPath } of this.#files) {
        await rename(temporaryPath, path);
        renamed.push(path);
      }
      // Not before they have their names: a claim goes with the descriptor.
      for (const { handle } of this.#files) await handle.close();
      for (const directory of new Set(renamed.map((path) => dirname(path)))) await syncDirectory(directory);
      this.#files.length = 0;
    } catch (error) {
      await Promise.allSettled(renamed.map((path) => unlink(path)));
      throw fromSystemError(error, "index create");
    }
  }

  /** Closing or removing may fail for files that `commit` got hold of first; what matters then is the error that led here. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#files.map(({ handle }) => handle.close()));
    await Promise.allSettled(this.#files.map(({ temporaryPath }) => unlink(temporaryPath)));
    this.#files.length = 0;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
