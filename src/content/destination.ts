import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { pathExists } from "../base/path-exists.js";
import { closeFd, openFd } from "../cache/raw-file.js";
import { renameNew, syncFileSystem } from "../native/content.js";

/**
 * A directory that appears under its name when all of it is there. Until then it is beside that name, in a directory that only
 * we may enter; disposing of it before `commit` leaves no trace.
 */
export class Destination implements AsyncDisposable {
  /** Of the tree, and of a directory beside it for what goes in the end. */
  readonly rootFd: number;
  readonly stagingFd: number;
  readonly stagingPath: string;
  readonly #path: string;
  readonly #temporary: string;
  #closed: Promise<void> | undefined;

  private constructor(path: string, temporary: string, rootFd: number, stagingFd: number) {
    this.#path = path;
    this.#temporary = temporary;
    this.rootFd = rootFd;
    this.stagingFd = stagingFd;
    this.stagingPath = join(temporary, "staging");
  }

  /** `busy` when there is something of that name. */
  static async create(path: string): Promise<Destination> {
    const absolute = resolve(path);
    if (await pathExists(absolute))
      throw new OcifsError("busy", `${absolute}: it exists already; name a directory that does not`);
    const temporary = join(dirname(absolute), `.${basename(absolute)}.${randomBytes(6).toString("hex")}.tmp`);
    try {
      await mkdir(temporary, { mode: 0o700 });
      await mkdir(join(temporary, "tree"), { mode: 0o700 });
      await mkdir(join(temporary, "staging"), { mode: 0o700 });
      const root = await openFd(join(temporary, "tree"), "read");
      return new Destination(absolute, temporary, root, await openFd(join(temporary, "staging"), "read"));
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      throw new OcifsError("io", `${absolute}: cannot be made: ${messageOf(error)}`, { cause: error });
    }
  }

  /** Gives it its name. With `durable` everything is on disk before, so that a power cut leaves all of it or nothing. */
  async commit(durable: boolean): Promise<void> {
    if (durable) await syncFileSystem(this.rootFd);
    renameNew(join(this.#temporary, "tree"), this.#path);
    if (durable) await syncFileSystem(this.rootFd);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await closeFd(this.rootFd);
    await closeFd(this.stagingFd);
    await rm(this.#temporary, { recursive: true, force: true });
  }
}
