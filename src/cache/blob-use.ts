import { fstatSync, futimesSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ensureDirectory } from "../base/ensure-directory.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { tryLock } from "../native/sparse.js";
import { closeFd, openFd } from "./raw-file.js";
import type { CacheRoom } from "./room.js";

/** The file in a blob's directory whose lock says that the blob is in use, and whose mtime says when it was last. */
export const USE_FILE = "use";
/** Its presence keeps a blob from eviction. */
export const PIN_FILE = "pinned";

/** Between two tries while the blob is being removed, which takes as long as a few unlinks. */
const REMOVAL_POLL_MS = 5;
const REMOVAL_TRIES = 400;
/** How exact the last use is: writing it costs a metadata update. */
const TOUCH_MS = 20_000;

/** A blob's directory in the cache while this process uses it: nobody removes it then. */
export class BlobUse implements AsyncDisposable {
  readonly path: string;
  readonly #fd: number;
  #touchedMs = Number.NEGATIVE_INFINITY;
  #closed = false;

  readonly #note: boolean;

  private constructor(path: string, fd: number, note: boolean) {
    this.path = path;
    this.#fd = fd;
    this.#note = note;
    this.touch();
  }

  /**
   * Creates the directory when it is missing. With `note: false` the blob counts as used no later than it was. `busy` when
   * somebody keeps the blob to himself for too long.
   */
  static async open(path: string, { note = true }: { readonly note?: boolean } = {}): Promise<BlobUse> {
    const lockPath = join(path, USE_FILE);
    for (let tries = 0; tries < REMOVAL_TRIES; tries++) {
      await ensureDirectory(path, 0o700);
      const fd = await openUnlessGone(lockPath);
      if (fd !== undefined) {
        // Who removes a blob holds the lock until the file is gone: what is still there now stays.
        if (tryLock(fd, 0, 1, "shared") && (await isAt(fd, lockPath))) return new BlobUse(path, fd, note);
        await closeFd(fd);
      }
      await delay(REMOVAL_POLL_MS);
    }
    throw new OcifsError("busy", `cache directory ${path}: another process is removing it; end that one`);
  }

  /** Alone with the blob, or undefined when it is in use or gone. For removal; waits for nobody. */
  static async tryTake(path: string): Promise<AsyncDisposable | undefined> {
    const lockPath = join(path, USE_FILE);
    const fd = await openUnlessGone(lockPath);
    if (fd === undefined) return undefined;
    if (tryLock(fd, 0, 1, "exclusive") && (await isAt(fd, lockPath))) {
      return { [Symbol.asyncDispose]: () => closeFd(fd) };
    }
    await closeFd(fd);
    return undefined;
  }

  /** Notes that the blob is used now. */
  touch(): void {
    const now = Date.now();
    if (this.#closed || !this.#note || Math.abs(now - this.#touchedMs) < TOUCH_MS) return;
    this.#touchedMs = now;
    futimesSync(this.#fd, now / 1000, now / 1000);
  }

  /** The same room, where every reservation counts as a use of this blob. */
  room(room: CacheRoom): CacheRoom {
    return {
      stepBytes: room.stepBytes,
      reserve: (bytes) => {
        this.touch();
        return room.reserve(bytes);
      },
      makeRoom: (bytes) => room.makeRoom(bytes),
      register: (holder) => room.register(holder),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#touchedMs = Number.NEGATIVE_INFINITY;
    this.touch();
    this.#closed = true;
    await closeFd(this.#fd);
  }
}

async function openUnlessGone(path: string): Promise<number | undefined> {
  try {
    return await openFd(path, "create");
  } catch (error) {
    const cause = error instanceof OcifsError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
    if (cause?.code === "ENOENT") return undefined;
    throw error;
  }
}

async function isAt(fd: number, path: string): Promise<boolean> {
  try {
    const [there, here] = [await stat(path), fstatSync(fd)];
    return there.ino === here.ino && there.dev === here.dev;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw new OcifsError("io", `stat ${path}: ${messageOf(error)}`, { cause: error });
  }
}
