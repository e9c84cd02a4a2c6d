import { randomBytes } from "node:crypto";
import { constants, open } from "node:fs";
import { link, rm } from "node:fs/promises";
import { join } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { bootId } from "../cache/cache-directory.js";
import { isCacheWriteFailure } from "../cache/compressed-file.js";
import { closeFd, writeFully } from "../cache/raw-file.js";
import type { CacheRoom } from "../cache/room.js";
import { createClaimed, removeLeftovers } from "../cache/temporary-files.js";
import type { WholeFile } from "../cache/verified-marks.js";
import { WriteBudget } from "../cache/write-budget.js";
import { SpanStore } from "../native/layer.js";
import { cacheKeyOf, type SpanTable } from "./span-table.js";

const DATA_PREFIX = "data-filling-";
const SPANS_PREFIX = "spans-filling-";

export interface DataFillOptions {
  /** The blob's directory in the cache. */
  readonly directory: string;
  readonly room: CacheRoom;
  /** Told once when the bytes are not kept after all: the disk is full, or the cache's limit leaves no room. */
  onDropped(reason: string): void;
}

/**
 * A whole uncompressed layer on its way into the cache, in a file beside the one it is to become: how the layer is divided
 * into spans, and so the file's name, is known only at its end. A disk that is full costs the file, not the pass.
 */
export class DataFill implements AsyncDisposable {
  readonly #o: DataFillOptions;
  readonly #path: string;
  #fd: number | undefined;
  #writtenBytes = 0;
  readonly #budget: WriteBudget;
  #writing: Promise<void> = Promise.resolve();

  private constructor(o: DataFillOptions, path: string, fd: number) {
    this.#o = o;
    this.#path = path;
    this.#fd = fd;
    this.#budget = new WriteBudget(o.room);
  }

  /** Removes what killed processes left, and makes an empty file. Fails with `io` or `no-space`. */
  static async begin(o: DataFillOptions): Promise<DataFill> {
    await removeLeftovers(o.directory, (name) => name.startsWith(DATA_PREFIX) || name.startsWith(SPANS_PREFIX));
    const { path, fd } = await createTemporary(o.directory, DATA_PREFIX);
    return new DataFill(o, path, fd);
  }

  /** Takes the next bytes, which must follow the last ones. Fails for nothing that a full disk may cause. */
  write(bytes: Uint8Array, offset: number): Promise<void> {
    this.#writing = this.#write(bytes, offset);
    return this.#writing;
  }

  async #write(bytes: Uint8Array, offset: number): Promise<void> {
    if (this.#fd === undefined) return;
    if (offset !== this.#writtenBytes) {
      throw new OcifsError("internal", `layer data: bytes at ${offset} after ${this.#writtenBytes}`);
    }
    // How much is to come nobody knows; about as much as there was.
    if (!(await this.#budget.spend(bytes.length, offset))) return await this.#drop("the cache's limit leaves no room");
    try {
      await writeFully(this.#fd, bytes, offset);
    } catch (error) {
      if (!isCacheWriteFailure(error)) throw error;
      return await this.#drop(messageOf(error));
    }
    this.#writtenBytes = offset + bytes.length;
  }

  /**
   * Gives the file its place, with all its spans present; the caller knows by now that the bytes are right. Resolves to the
   * file's name, or to undefined when it was dropped on the way or another process has put one there: what others
   * have in use is never replaced.
   */
  async keep(table: SpanTable): Promise<WholeFile | undefined> {
    const fd = this.#fd;
    const sizeBytes = table.outStarts.at(-1) ?? 0;
    if (fd === undefined || sizeBytes === 0) return undefined;
    if (this.#writtenBytes !== sizeBytes) {
      throw new OcifsError("internal", `layer data: ${this.#writtenBytes} bytes, its span table has ${sizeBytes}`);
    }
    try {
      return await this.#publish(table, fd);
    } catch (error) {
      if (!isCacheWriteFailure(error)) throw error;
      await this.#drop(messageOf(error));
      return undefined;
    }
  }

  async #publish(table: SpanTable, dataFd: number): Promise<WholeFile | undefined> {
    const { directory } = this.#o;
    const { outStarts, partition, spanCount } = table;
    const key = cacheKeyOf(table);
    const boot = await bootId();
    const { path: spansPath, fd: spansFd } = await createTemporary(directory, SPANS_PREFIX);
    // The store takes over both descriptors, and with them the claims, until it is closed.
    this.#fd = undefined;
    try {
      const store = new SpanStore({ dataFd, spansFd, outStarts, partition, bootId: boot, memoryBytes: 0 });
      try {
        // Nobody else knows the two files yet, so nobody can have written to the data since it was checked.
        const adopted = await store.adopt(0, spanCount - 1);
        if (adopted !== spanCount) {
          throw new OcifsError("internal", `layer data: ${adopted} of ${spanCount} spans of a new file became present`);
        }
        // The data first: without states its bytes count for nothing, and states without their data would be a lie.
        if (!(await linkNew(this.#path, join(directory, `data-${key}`)))) return undefined;
        if (!(await linkNew(spansPath, join(directory, `spans-${key}`)))) return undefined;
        return `data-${key}`;
      } finally {
        store.close();
      }
    } finally {
      await rm(spansPath, { force: true });
    }
  }

  /** Removes the temporary name; under its lasting one the file stays. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([this.#writing]);
    await this.#remove();
  }

  async #drop(reason: string): Promise<void> {
    await this.#remove();
    this.#o.onDropped(reason);
  }

  async #remove(): Promise<void> {
    const fd = this.#fd;
    this.#fd = undefined;
    // The name first: as long as the file is open, and so claimed, nobody else makes one of that name.
    await rm(this.#path, { force: true });
    if (fd !== undefined) await closeFd(fd);
    this.#budget[Symbol.dispose]();
  }
}

/** False when there is a file of that name already. */
async function linkNew(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw new OcifsError("io", `cache: cannot link ${to}: ${messageOf(cause)}`, { cause });
  }
}

/** A new file, claimed; the caller closes and removes it. */
function createTemporary(directory: string, prefix: string): Promise<{ path: string; fd: number }> {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
  return createClaimed(
    async () => {
      const path = join(directory, `${prefix}${process.pid}-${randomBytes(6).toString("hex")}`);
      const fd = await new Promise<number>((resolve, reject) =>
        open(path, flags, 0o600, (error, opened) => {
          const code = error?.code === "ENOSPC" || error?.code === "EDQUOT" ? "no-space" : "io";
          if (error) reject(new OcifsError(code, `cache ${path}: ${error.message}`, { cause: error }));
          else resolve(opened);
        }),
      );
      return { path, fd };
    },
    ({ fd }) => fd,
    ({ fd }) => closeFd(fd),
  );
}
