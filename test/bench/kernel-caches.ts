import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";

const control = "/proc/sys/vm/drop_caches";
/** It takes a second at most, unless some file system on the machine is stuck. */
const DROP_DEADLINE_MS = 20_000;

export interface KernelCachesOptions {
  /** Run first: writes dirty pages out. */
  readonly flush: () => Promise<unknown>;
  /** Drops the pages of our own files, and of these. */
  readonly forgetFiles: (more: readonly string[]) => Promise<unknown>;
  readonly say: (message: string) => void;
}

/**
 * Empties the kernel's caches of pages, names and inodes. Dropping all pages waits for every file system of the machine: where
 * one hangs in its unmount, it never ends. Then the pages of our own files are dropped one by one, and the report says so.
 */
export class KernelCaches {
  readonly #o: KernelCachesOptions;
  #stuck = false;
  #proven = false;

  constructor(options: KernelCachesOptions) {
    this.#o = options;
  }

  get how(): string {
    if (!this.#proven && !this.#stuck) return "nothing: no workload of this run needed it";
    return this.#stuck
      ? "file by file, since a file system of this machine is stuck and drop_caches never ends: programs stay in memory"
      : `echo 3 >${control}`;
  }

  /** `more`: files and trees outside our directory, such as mounts, that the measurement reads. */
  async empty(more: readonly string[]): Promise<void> {
    await this.#o.flush();
    if (!this.#proven && !this.#stuck) await this.#prove();
    if (this.#stuck) {
      await this.#o.forgetFiles(more);
      await writeFile(control, "2");
    } else {
      await writeFile(control, "3");
    }
  }

  /** In a process of its own, since a thread that hangs there would keep this one from ending. */
  async #prove(): Promise<void> {
    const child = spawn("sh", ["-c", `echo 1 >${control}`], { stdio: "ignore", detached: true });
    child.unref();
    const ended = await Promise.race([once(child, "exit"), delay(DROP_DEADLINE_MS, undefined, { ref: true })]);
    this.#proven = ended !== undefined;
    this.#stuck = !this.#proven;
    if (this.#stuck) this.#o.say(`${control} hangs; caches are emptied file by file`);
  }
}
