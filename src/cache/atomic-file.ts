import { randomBytes } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { OcifsError } from "../base/errors.js";

/**
 * Puts a small file under its name whole or not at all: written beside it, flushed, renamed. Of processes that write it at
 * once the last one wins. Readers see the old bytes or the new ones. The directory must exist. Throws `io` or `no-space`.
 */
export async function writeFileAtomically(path: string, content: string | Uint8Array): Promise<void> {
  await using file = await AtomicFile.create(path);
  await file.append(typeof content === "string" ? Buffer.from(content) : content);
  await file.commit();
}

/** The same for a file that is made in pieces. Disposing before `commit` leaves no trace. */
export class AtomicFile implements AsyncDisposable {
  readonly #path: string;
  readonly #temporaryPath: string;
  readonly #file: Awaited<ReturnType<typeof open>>;
  #state: "open" | "closed" | "committed" = "open";
  #sizeBytes = 0;

  private constructor(path: string, temporaryPath: string, file: Awaited<ReturnType<typeof open>>) {
    this.#path = path;
    this.#temporaryPath = temporaryPath;
    this.#file = file;
  }

  static async create(path: string): Promise<AtomicFile> {
    const temporaryPath = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.tmp`);
    try {
      return new AtomicFile(path, temporaryPath, await open(temporaryPath, "wx", 0o600));
    } catch (error) {
      throw toWriteError(error, path);
    }
  }

  async append(bytes: Uint8Array): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; ) {
        const { bytesWritten } = await this.#file.write(bytes, at, bytes.length - at, this.#sizeBytes);
        at += bytesWritten;
        this.#sizeBytes += bytesWritten;
      }
    } catch (error) {
      throw toWriteError(error, this.#path);
    }
  }

  async commit(): Promise<void> {
    try {
      await this.#file.sync();
      await this.#file.close();
      this.#state = "closed";
      await rename(this.#temporaryPath, this.#path);
      this.#state = "committed";
    } catch (error) {
      throw toWriteError(error, this.#path);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state === "open") await this.#file.close();
    if (this.#state !== "committed") await rm(this.#temporaryPath, { force: true });
  }
}

function toWriteError(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !("code" in error)) return error;
  const full = error.code === "ENOSPC" || error.code === "EDQUOT";
  return new OcifsError(full ? "no-space" : "io", `cache write of ${path}: ${error.message}`, { cause: error });
}
