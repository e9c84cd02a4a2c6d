import { randomBytes } from "node:crypto";
import { access, constants, open, readFile, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { dataRanges } from "../native/sparse.js";
import { algorithmOf, type Digest, hexOf } from "../oci/digest.js";
import { BlobUse } from "./blob-use.js";
import { CACHE_BLOCK_BYTES } from "./compressed-file.js";
import { type CacheRoom, unlimitedRoom } from "./room.js";
import { SharedRoom } from "./shared-room.js";

/** Where the processes that share the cache agree on its limit. */
export const RESERVATIONS_FILE = "reservations";

/**
 * The directory that every mount of this user shares. Layout: docs/FORMATS.md. Files are 0600 and directories 0700:
 * a layer may hold what its registry shows only to some.
 */
export class CacheDirectory implements AsyncDisposable {
  readonly path: string;
  /** Why nothing is kept on disk, or undefined when the cache works. Reads succeed either way. */
  readonly unusable: string | undefined;
  /** Asked before bytes are written below this directory. */
  readonly room: CacheRoom;
  /** It has a limit of its own, so that anything in it may have to be given up. */
  readonly limited: boolean;
  readonly #shared: SharedRoom | undefined;

  private constructor(path: string, unusable: string | undefined, shared: SharedRoom | undefined, limited: boolean) {
    this.path = path;
    this.unusable = unusable;
    this.limited = limited;
    this.#shared = shared;
    this.room = shared ?? unlimitedRoom;
  }

  /**
   * Creates the directory and checks that it can hold sparse files; never fails for a cache that cannot be used, which is
   * also one whose limit cannot be kept. `limitBytes` is what everything below it may take up on disk.
   */
  static async open(path: string, options: { readonly limitBytes?: number } = {}): Promise<CacheDirectory> {
    const absolute = resolve(path);
    try {
      await ensureDirectory(absolute, 0o700);
      await access(absolute, constants.W_OK);
      await checkHoles(absolute);
      const shared = await SharedRoom.open(absolute, join(absolute, RESERVATIONS_FILE), options.limitBytes);
      return new CacheDirectory(absolute, undefined, shared, options.limitBytes !== undefined);
    } catch (error) {
      return new CacheDirectory(absolute, messageOf(error), undefined, false);
    }
  }

  /**
   * `blobs/<algorithm>/<hex>`, keyed by blob digest: shared by all images, tags and mounts. Created when missing, and nobody
   * removes it until the use is closed.
   */
  async useBlob(digest: Digest): Promise<BlobUse> {
    return await BlobUse.open(this.#blobPath(digest));
  }

  /** `images/<algorithm>/<hex>` for what is known of a manifest or an image index; not created here. */
  imagePath(manifest: Digest): string {
    return join(this.path, "images", algorithmOf(manifest), hexOf(manifest));
  }

  /** `indexes/<algorithm>/<hex>` for the index files of one layer; not created here. */
  indexPath(digest: Digest): string {
    return join(this.path, "indexes", algorithmOf(digest), hexOf(digest));
  }

  /** Gives back what was reserved and not written. Close after everything that was opened in it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#shared?.[Symbol.asyncDispose]();
  }

  #blobPath(digest: Digest): string {
    return join(this.path, "blobs", algorithmOf(digest), hexOf(digest));
  }
}

/**
 * Presence in `compressed` is what SEEK_DATA and SEEK_HOLE say, so a file system that rounds holes to more than a cache
 * block (some do, to 64 or 128 KiB) would make never-written bytes look present. Such a cache is not used.
 */
async function checkHoles(directory: string): Promise<void> {
  const path = join(directory, `.probe-${process.pid}-${randomBytes(6).toString("hex")}`);
  const file = await open(path, "wx+", 0o600);
  try {
    const block = CACHE_BLOCK_BYTES;
    await file.truncate(64 * block);
    await file.write(Buffer.alloc(block, 1), 0, block, 33 * block);
    const ranges = dataRanges(file.fd, 0, 64 * block);
    const [only] = ranges;
    if (ranges.length !== 1 || only?.begin !== 33 * block || only.end !== 34 * block) {
      throw new OcifsError("unsupported", `${directory}: this file system does not track holes of ${block} bytes`);
    }
  } finally {
    await file.close();
    await rm(path, { force: true });
  }
}

/** The kernel's boot id as 16 bytes: tells whether unflushed writes of an earlier run can have been lost. */
export async function bootId(): Promise<Uint8Array> {
  const text = await readFile("/proc/sys/kernel/random/boot_id", "utf8");
  const bytes = Buffer.from(text.trim().replaceAll("-", ""), "hex");
  if (bytes.length !== 16) throw new OcifsError("io", `boot id: ${text.trim()} is not a UUID`);
  return bytes;
}
