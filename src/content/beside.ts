import { closeSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ensureDirectory } from "../base/ensure-directory.js";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { pathExists } from "../base/path-exists.js";
import { closeFd, openFd } from "../cache/raw-file.js";
import { putObjects, stageFile } from "../native/content.js";
import type { ContentStore } from "./content-store.js";
import { objectNameOf } from "./layer-table.js";

/** The directory that holds what a stream or a dump names: file contents, shared with the cache where the file system can. */
export class ContentDirectory implements AsyncDisposable {
  readonly fd: number;
  readonly #path: string;

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.fd = fd;
  }

  static async open(path: string): Promise<ContentDirectory> {
    try {
      await ensureDirectory(path, 0o755);
      return new ContentDirectory(path, await openFd(path, "read"));
    } catch (error) {
      throw new OcifsError("io", `directory of file contents ${path}: ${messageOf(error)}`, { cause: error });
    }
  }

  /** The i-th file of a store under its digest, or another name. One that is there already stays. */
  async addFile(store: ContentStore, i: number, name?: string): Promise<void> {
    const object = objectNameOf(store.table, i);
    if (object === undefined) throw new OcifsError("internal", "content directory: a file that is not kept by itself");
    const path = name ?? object;
    if (await pathExists(join(this.#path, path))) return;
    await mkdir(join(this.#path, dirname(path)), { recursive: true });
    const source = { directory: store.objectsFd, name: Buffer.from(object) };
    try {
      const { fd } = await stageFile(this.fd, Buffer.from(path), source, store.table.sizes[i] ?? 0);
      closeSync(fd);
    } catch (error) {
      // Another export may have made it at the same time.
      if (!isOcifsError(error) || !(await pathExists(join(this.#path, path)))) throw error;
    }
  }

  /** A file of which the store has no copy, under its digest. */
  async addRange(store: ContentStore, offset: number, sizeBytes: number): Promise<void> {
    await putObjects(this.fd, store.dataFd, Float64Array.of(offset, sizeBytes));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeFd(this.fd);
  }
}
