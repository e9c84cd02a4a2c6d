import { close } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { OcifsError } from "../base/errors.js";
import { type FuseFiles, FuseSession } from "../native/fuse.js";
import type { DriverStats, KeptMount, MountRequest } from "./driver.js";
import { nameSessionFds } from "./kept-session.js";

/** Enough to keep all cores and a few waits for the disk busy; each costs a thread and two descriptors, here and with the keeper. */
const WORKERS_MIN = 4;
const WORKERS_MAX = 8;
/** With many mounts in one process each has fewer, down to one: so many keep a machine busy, whoever's they are. */
const WORKERS_OF_PROCESS = 64;

/** Sessions of this process that have not ended. */
let sessions = 0;

function workersOfNextSession(): number {
  const wanted = Math.min(WORKERS_MAX, Math.max(WORKERS_MIN, availableParallelism()));
  return Math.max(1, Math.min(wanted, Math.floor(WORKERS_OF_PROCESS / (sessions + 1))));
}

/** As the kernel's readahead of the mount, so that sequential reads come in the largest requests FUSE has. */
const READAHEAD_KIB = 1024;

const noTime = { seconds: 0, counts: [] };
const noStats: DriverStats = {
  requests: 0,
  reads: 0,
  readBytes: 0,
  parked: 0,
  interrupted: 0,
  errors: 0,
  waitedBytes: 0,
  hitTime: noTime,
  waitTime: noTime,
};

/** What a session needs of a mount; `mountpoint` is for messages. */
export type ServingRequest = Pick<MountRequest, "mountpoint" | "tree" | "onMiss">;

/** A FUSE session from its start to its end, whoever ends it. */
export class Serving {
  /** Resolves when the kernel has ended it or it was stopped; rejects when it broke. */
  readonly ended: Promise<void>;
  readonly #session: FuseSession;
  #over = false;
  #lastStats = noStats;

  /** Takes the descriptors over, also when it throws: the mounted one, and clones that a process before this one made. */
  constructor(request: ServingRequest, fds: readonly number[], files: FuseFiles) {
    let onEnd: (errno: number) => void = () => undefined;
    this.ended = new Promise((resolve, reject) => {
      onEnd = (errno) => {
        this.#over = true;
        sessions--;
        if (errno === 0) resolve();
        else reject(new OcifsError("io", `${request.mountpoint}: the FUSE session ended with errno ${errno}`));
      };
    });
    try {
      this.#session = new FuseSession({
        fds,
        workers: workersOfNextSession(),
        files,
        image: request.tree.image,
        devices: request.tree.devices,
        onMiss: request.onMiss,
        onEnd: (errno) => onEnd(errno),
      });
      sessions++;
    } catch (error) {
      for (const fd of fds) close(fd, () => undefined);
      throw error;
    }
  }

  /** It has ended by itself. */
  get over(): boolean {
    return this.#over;
  }

  stats(): DriverStats {
    if (!this.#over) this.#lastStats = this.#session.stats();
    return this.#lastStats;
  }

  /** For `adopt`: see FuseSession.fds. */
  keptFds(): KeptMount["fds"] {
    return nameSessionFds(this.#session.fds());
  }

  /** See FuseSession. */
  resend(): void {
    this.#session.resend();
  }

  /** See FuseSession; once. */
  async stop(how: { readonly answer?: boolean } = {}): Promise<void> {
    this.stats();
    await this.#session.stop(how);
    this.#over = true;
  }
}

/** The kernel starts mounts at 128 KiB; only root may raise it. Without sysfs the mount works as well, in smaller reads. */
export async function raiseReadahead(device: string): Promise<void> {
  const path = `/sys/class/bdi/${device}/read_ahead_kb`;
  try {
    if (Number(await readFile(path, "utf8")) < READAHEAD_KIB) await writeFile(path, `${READAHEAD_KIB}`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "EACCES" && code !== "EROFS" && code !== "EPERM") throw error;
  }
}
