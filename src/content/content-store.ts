import { randomBytes } from "node:crypto";
import { mkdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { mapConcurrently } from "../base/concurrency.js";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readBounded } from "../base/read-bounded.js";
import { writeFileAtomically } from "../cache/atomic-file.js";
import { closeFd, openFd } from "../cache/raw-file.js";
import type { CacheRoom } from "../cache/room.js";
import type { OpenLayer } from "../layer/open-layer.js";
import { putObjects, syncFileSystem } from "../native/content.js";
import type { Digest } from "../oci/digest.js";
import { completeLayer } from "./complete-layer.js";
import {
  type ContentTable,
  contentTableBytes,
  decodeContentTable,
  encodeContentTable,
  INLINE_BYTES,
  readFileTable,
} from "./layer-table.js";

/** Files a native call makes, and calls at a time: libuv's four threads are shared with reads. */
const FILES_AT_ONCE = 256;
const CALLS_AT_ONCE = 2;
/** What a file takes up beside its bytes: the rest of its last block, its inode. */
const FILE_OVERHEAD_BYTES = 4608;

/** A layer that is complete in the cache, with its larger files as files of their own. Close it before the layer. */
export class ContentStore implements AsyncDisposable {
  /** Of the directory that objects are below, and of the whole tar. */
  readonly objectsFd: number;
  readonly dataFd: number;
  readonly table: ContentTable;
  readonly tarDigest: Digest;
  readonly #hold: Disposable;
  #closed: Promise<void> | undefined;

  private constructor(
    fds: { objects: number; data: number },
    table: ContentTable,
    tarDigest: Digest,
    hold: Disposable,
  ) {
    this.objectsFd = fds.objects;
    this.dataFd = fds.data;
    this.table = table;
    this.tarDigest = tarDigest;
    this.#hold = hold;
  }

  /** Completes the layer and makes the store when it is not there. Throws `no-space` when the cache has no room for it. */
  static async open(layer: OpenLayer, room: CacheRoom, signal: AbortSignal): Promise<ContentStore> {
    const tarDigest = await completeLayer(layer, signal);
    const { files } = layer;
    if (!files) throw new OcifsError("internal", "content store: a complete layer without files");
    // Nothing of the tar is given up while somebody may read it by its descriptor.
    const hold = layer.spans.hold(0, Math.max(0, layer.store.stats().spans - 1));
    const opened: number[] = [];
    try {
      const data = await openFd(files.dataPath, "read");
      opened.push(data);
      const table =
        (await readTable(files.contentPath, tarDigest)) ?? (await make(layer, data, tarDigest, room, signal));
      const objects = await openFd(join(files.contentPath, "objects"), "read");
      return new ContentStore({ objects, data }, table, tarDigest, hold);
    } catch (error) {
      hold[Symbol.dispose]();
      for (const fd of opened) await closeFd(fd);
      throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#hold[Symbol.dispose]();
    await closeFd(this.objectsFd);
    await closeFd(this.dataFd);
  }
}

async function readTable(path: string, tarDigest: Digest): Promise<ContentTable | undefined> {
  try {
    const table = join(path, "table");
    return decodeContentTable(
      await readBounded(table, contentTableBytes(limits.tarEntries), `content table ${table}`),
      tarDigest,
      table,
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    // What cannot be used is made again.
    if (!isOcifsError(error, "corrupt") && !isOcifsError(error, "mismatch")) throw error;
    return undefined;
  }
}

/** In a directory of its own, which gets its name whole; of several that make it at once one wins, and all have the same. */
async function make(
  layer: OpenLayer,
  dataFd: number,
  tarDigest: Digest,
  room: CacheRoom,
  signal: AbortSignal,
): Promise<ContentTable> {
  const { files } = layer;
  if (!files) throw new OcifsError("internal", "content store: a layer without files");
  const { generation } = layer.store.stats();
  const found = await readFileTable(layer.device, signal);
  const table = { ...found, digests: Buffer.alloc(found.offsets.length * 32) };
  const kept = [...found.sizes.keys()].filter((i) => (found.sizes[i] ?? 0) > INLINE_BYTES);
  const bytes = kept.reduce((sum, i) => sum + (found.sizes[i] ?? 0) + FILE_OVERHEAD_BYTES, limits.pathBytes);
  using granted = await room.reserve(bytes);
  if (!granted) {
    throw new OcifsError(
      "no-space",
      `layer ${layer.source.digest}: the cache's limit leaves no room for ${bytes} bytes of its files; raise cachesize=`,
    );
  }
  const temporary = `${files.contentPath}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await mkdir(join(temporary, "objects"), { recursive: true, mode: 0o700 });
    const objects = await openFd(join(temporary, "objects"), "read");
    try {
      const batches = Array.from({ length: Math.ceil(kept.length / FILES_AT_ONCE) }, (_, n) =>
        kept.slice(n * FILES_AT_ONCE, (n + 1) * FILES_AT_ONCE),
      );
      const put = async (batch: readonly number[]) => {
        const ranges = Float64Array.from(batch.flatMap((i) => [found.offsets[i] ?? 0, found.sizes[i] ?? 0]));
        const { digests } = await putObjects(objects, dataFd, ranges);
        for (const [n, i] of batch.entries()) digests.copy(table.digests, i * 32, n * 32, n * 32 + 32);
      };
      await mapConcurrently(batches, CALLS_AT_ONCE, put, signal);
      const after = layer.store.stats();
      if (after.generation !== generation || after.dataSpans !== after.spans) {
        throw new OcifsError(
          "busy",
          `layer ${layer.source.digest}: the cache gave up parts of it while its files were copied; try again`,
        );
      }
      // Files first: a table says that they are there.
      await syncFileSystem(objects);
    } finally {
      await closeFd(objects);
    }
    await writeFileAtomically(join(temporary, "table"), encodeContentTable(table, tarDigest));
    return await settle(temporary, files.contentPath, table, tarDigest);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Gives a finished store its name, unless somebody was quicker: his is the same, and may be in use. What is damaged goes. */
async function settle(temporary: string, path: string, made: ContentTable, tarDigest: Digest): Promise<ContentTable> {
  for (let tries = 0; ; tries++) {
    try {
      await rename(temporary, path);
      return made;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if ((code !== "ENOTEMPTY" && code !== "EEXIST") || tries > 0) {
        throw new OcifsError("io", `content store ${path}: ${messageOf(error)}`, { cause: error });
      }
    }
    const theirs = await readTable(path, tarDigest);
    if (theirs) return theirs;
    await rm(path, { recursive: true, force: true });
  }
}
