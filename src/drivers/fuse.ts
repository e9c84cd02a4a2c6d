import { close } from "node:fs";
import { readFile, stat, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { messageOf, OcifsError } from "../base/errors.js";
import { FuseSession, mountFuse } from "../native/fuse.js";
import type { Driver, DriverStats, KeptMount, Mounted, MountRequest } from "./driver.js";
import { mountThroughFusermount } from "./fusermount.js";
import { nameSessionFds, sessionFdsOf } from "./kept-session.js";
import { readOnlyMountBits } from "./mount-flags.js";
import { detach, deviceAt, deviceName } from "./mountpoint.js";

/** Enough to keep all cores and a few waits for the disk busy; each costs a thread and 1 MiB of reply buffer. */
const WORKERS_MIN = 4;
const WORKERS_MAX = 8;

/** As the kernel's readahead of the mount, so that sequential reads come in the largest requests FUSE has. */
const READAHEAD_KIB = 1024;

const noStats: DriverStats = { requests: 0, reads: 0, readBytes: 0, parked: 0, interrupted: 0, errors: 0 };

/** The tree through our own FUSE session: mount(2) as root, fusermount3 otherwise. */
export const fuseDriver: Driver = {
  name: "fuse",

  async unavailable() {
    return undefined;
  },

  async mount(request) {
    const privileged = isRoot();
    const fd = privileged ? mountAsRoot(request) : await mountThroughFusermount(request);
    try {
      return await FuseMount.start(request, fd, privileged);
    } catch (error) {
      await detach(request.mountpoint, privileged);
      throw error;
    }
  },

  async adopt(request, kept) {
    const fds = sessionFdsOf(kept, request.mountpoint);
    const { device } = kept.facts;
    return FuseMount.adopt(request, fds, isRoot(), typeof device === "string" ? device : undefined);
  },
};

const isRoot = (): boolean => process.getuid?.() === 0;

class FuseMount implements Mounted {
  readonly driver = "fuse";
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #session: FuseSession;
  readonly #privileged: boolean;
  #state: "mounted" | "unmounting" | "ended" = "mounted";
  #lastStats = noStats;
  #ending: Promise<void> | undefined;
  /** "major:minor" of the mounted file system, once it has answered. */
  #device: string | undefined;

  private constructor(request: MountRequest, fds: readonly number[], privileged: boolean) {
    this.mountpoint = request.mountpoint;
    this.#privileged = privileged;
    let onEnd: (errno: number) => void = () => undefined;
    this.ended = new Promise((resolve, reject) => {
      onEnd = (errno) => {
        this.#state = "ended";
        if (errno === 0) resolve();
        else reject(new OcifsError("io", `${request.mountpoint}: the FUSE session ended with errno ${errno}`));
      };
    });
    this.#session = new FuseSession({
      fds,
      workers: Math.min(WORKERS_MAX, Math.max(WORKERS_MIN, availableParallelism())),
      files: "tree",
      image: request.tree.image,
      devices: request.tree.devices,
      onMiss: request.onMiss,
      onEnd: (errno) => onEnd(errno),
    });
  }

  /** Takes the descriptor over, also when it fails; the mount itself is then the caller's to remove. */
  static async start(request: MountRequest, fd: number, privileged: boolean): Promise<FuseMount> {
    const mount = FuseMount.#open(request, [fd], privileged);
    try {
      const device = deviceName((await stat(request.mountpoint)).dev);
      mount.#device = device;
      if (privileged) await raiseReadahead(device);
      return mount;
    } catch (error) {
      await mount.leave();
      throw new OcifsError("io", `${request.mountpoint}: mounted, but it does not answer: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** The same for a mount that is there: `device` is its "major:minor", where it is known. */
  static async adopt(
    request: MountRequest,
    fds: readonly number[],
    privileged: boolean,
    device: string | undefined,
  ): Promise<FuseMount> {
    const mount = FuseMount.#open(request, fds, privileged);
    mount.#device = device;
    try {
      // What the process before us had read and not answered waits for ever otherwise.
      mount.#session.resend();
      return mount;
    } catch (error) {
      await mount.leave();
      throw error;
    }
  }

  static #open(request: MountRequest, fds: readonly number[], privileged: boolean): FuseMount {
    try {
      return new FuseMount(request, fds, privileged);
    } catch (error) {
      for (const fd of fds) close(fd, () => undefined);
      throw error;
    }
  }

  stats(): DriverStats {
    if (this.#state !== "ended") this.#lastStats = this.#session.stats();
    return this.#lastStats;
  }

  keep(): KeptMount {
    return {
      fds: nameSessionFds(this.#session.fds()),
      facts: this.#device === undefined ? {} : { device: this.#device },
    };
  }

  unmount(): Promise<void> {
    this.#ending ??= this.#unmount();
    return this.#ending;
  }

  leave(): Promise<void> {
    this.#ending ??= this.#leave();
    return this.#ending;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmount();
  }

  async #unmount(): Promise<void> {
    this.#lastStats = this.#session.stats();
    if (this.#state === "mounted") {
      this.#state = "unmounting";
      // Unmounting goes by path: what covers this mount, or took its place after umount -l, is not ours to remove.
      if (this.#device === undefined || (await deviceAt(this.mountpoint)) === this.#device) {
        await detach(this.mountpoint, this.#privileged);
      }
    }
    await this.#session.stop();
    this.#state = "ended";
  }

  async #leave(): Promise<void> {
    this.#lastStats = this.#session.stats();
    this.#state = "unmounting";
    await this.#session.stop({ answer: false });
    this.#state = "ended";
  }
}

function mountAsRoot(request: MountRequest): number {
  // As root the mount is for everybody, as every other mount is; the kernel checks permissions.
  const data = [
    "rootmode=40000",
    "user_id=0",
    "group_id=0",
    "default_permissions",
    "allow_other",
    ...request.securityOptions,
  ];
  return mountFuse(request.mountpoint, request.sourceName, readOnlyMountBits(request.flags), data.join(","));
}

/** The kernel starts FUSE mounts at 128 KiB; only root may raise it. Without sysfs the mount works as well, in smaller reads. */
async function raiseReadahead(device: string): Promise<void> {
  const path = `/sys/class/bdi/${device}/read_ahead_kb`;
  try {
    if (Number(await readFile(path, "utf8")) < READAHEAD_KIB) await writeFile(path, `${READAHEAD_KIB}`);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "EACCES" && code !== "EROFS" && code !== "EPERM") throw error;
  }
}
