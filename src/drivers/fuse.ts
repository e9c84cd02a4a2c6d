import { spawn } from "node:child_process";
import { close } from "node:fs";
import { readFile, stat, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { messageOf, OcifsError } from "../base/errors.js";
import { FuseSession, mountFuse, openSocketPair, receiveFd, unmount } from "../native/fuse.js";
import type { DriverStats, Mounted, MountFlags, MountRequest } from "./driver.js";

/** Flags of mount(2), <linux/mount.h>. */
const MS_RDONLY = 1;
const flagBits: Readonly<Record<keyof MountFlags, number>> = {
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  nosymfollow: 256,
  noatime: 1024,
  nodiratime: 2048,
  silent: 32768,
  relatime: 1 << 21,
  strictatime: 1 << 24,
};

/** Enough to keep all cores and a few waits for the disk busy; each costs a thread and 1 MiB of reply buffer. */
const WORKERS_MIN = 4;
const WORKERS_MAX = 8;

/** As the kernel's readahead of the mount, so that sequential reads come in the largest requests FUSE has. */
const READAHEAD_KIB = 1024;

const noStats: DriverStats = { requests: 0, reads: 0, readBytes: 0, parked: 0, interrupted: 0, errors: 0 };

/**
 * Mounts the tree through our own FUSE session: mount(2) as root, fusermount3 otherwise. Returns when the mount answers.
 */
export async function mountWithFuse(request: MountRequest): Promise<Mounted> {
  const privileged = process.getuid?.() === 0;
  const fd = privileged ? mountAsRoot(request) : await mountThroughFusermount(request);
  return FuseMount.start(request, fd, privileged);
}

class FuseMount implements Mounted {
  readonly driver = "fuse";
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #session: FuseSession;
  readonly #privileged: boolean;
  #state: "mounted" | "unmounting" | "ended" = "mounted";
  #lastStats = noStats;
  #unmounting: Promise<void> | undefined;
  /** "major:minor" of the mounted file system, once it has answered. */
  #device: string | undefined;

  private constructor(request: MountRequest, fd: number, privileged: boolean) {
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
      fd,
      workers: Math.min(WORKERS_MAX, Math.max(WORKERS_MIN, availableParallelism())),
      image: request.tree.image,
      devices: request.tree.devices,
      onMiss: request.onMiss,
      onEnd: (errno) => onEnd(errno),
    });
  }

  static async start(request: MountRequest, fd: number, privileged: boolean): Promise<FuseMount> {
    let mount: FuseMount;
    try {
      mount = new FuseMount(request, fd, privileged);
    } catch (error) {
      close(fd, () => undefined);
      await detach(request.mountpoint, privileged);
      throw error;
    }
    try {
      const device = deviceName((await stat(request.mountpoint)).dev);
      mount.#device = device;
      if (privileged) await raiseReadahead(device);
      return mount;
    } catch (error) {
      await mount.unmount();
      throw new OcifsError("io", `${request.mountpoint}: mounted, but it does not answer: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  stats(): DriverStats {
    if (this.#state !== "ended") this.#lastStats = this.#session.stats();
    return this.#lastStats;
  }

  unmount(): Promise<void> {
    this.#unmounting ??= this.#unmount();
    return this.#unmounting;
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
}

function mountAsRoot(request: MountRequest): number {
  const flags = setFlags(request.flags).reduce((bits, flag) => bits | flagBits[flag], MS_RDONLY);
  // As root the mount is for everybody, as every other mount is; the kernel checks permissions.
  const data = [
    "rootmode=40000",
    "user_id=0",
    "group_id=0",
    "default_permissions",
    "allow_other",
    ...request.securityOptions,
  ];
  return mountFuse(request.mountpoint, request.sourceName, flags, data.join(","));
}

function setFlags(flags: MountFlags): (keyof MountFlags)[] {
  return (Object.keys(flagBits) as (keyof MountFlags)[]).filter((flag) => flags[flag]);
}

/** fusermount3 mounts for ordinary users and passes the descriptor over the socket named in _FUSE_COMMFD. */
async function mountThroughFusermount(request: MountRequest): Promise<number> {
  const [ours, theirs] = openSocketPair();
  try {
    const options = [
      "ro",
      "nosuid",
      "nodev",
      "default_permissions",
      "subtype=ocifs",
      `fsname=${request.sourceName.replaceAll(/[\\,]/g, (c) => `\\${c}`)}`,
      // Of the others fusermount3 knows none, and nosuid and nodev it insists on.
      ...setFlags(request.flags).filter((flag) => flag === "noexec" || flag === "noatime"),
      ...(request.allowOther ? ["allow_other"] : []),
    ];
    const child = spawn("fusermount3", ["-o", options.join(","), "--", request.mountpoint], {
      stdio: ["ignore", "ignore", "pipe", theirs],
      env: { ...process.env, _FUSE_COMMFD: "3" },
    });
    close(theirs, () => undefined);
    const stderr: Buffer[] = [];
    child.stderr?.on("data", (chunk: Buffer) => stderr.push(chunk));
    const exited = new Promise<number>((resolve, reject) => {
      child.once("error", (error) =>
        reject(
          new OcifsError("io", `fusermount3: ${error.message}; install fuse3 to mount without root`, { cause: error }),
        ),
      );
      child.once("close", (code) => resolve(code ?? 1));
    });
    const [fd, code] = await Promise.all([receiveFd(ours).catch(() => -1), exited]);
    if (code !== 0 || fd < 0) {
      const said = Buffer.concat(stderr).toString().trim().split("\n")[0];
      throw new OcifsError("io", `fusermount3 could not mount ${request.mountpoint}: ${said || `exit code ${code}`}`);
    }
    return fd;
  } finally {
    close(ours, () => undefined);
  }
}

/** Unmounts, lazily when the mount is busy. A mount that is gone already is what was wanted. */
async function detach(mountpoint: string, privileged: boolean): Promise<void> {
  if (!privileged) {
    await new Promise<void>((resolve, reject) => {
      const child = spawn("fusermount3", ["-u", "-z", "--", mountpoint], { stdio: ["ignore", "ignore", "pipe"] });
      const stderr: Buffer[] = [];
      child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
      child.once("error", reject);
      child.once("close", (code) => {
        const text = Buffer.concat(stderr).toString();
        if (code === 0 || /not found|not mounted/i.test(text)) resolve();
        else reject(new OcifsError("io", `fusermount3 could not unmount ${mountpoint}: ${text.trim()}`));
      });
    });
    return;
  }
  try {
    await unmount(mountpoint, false);
  } catch (error) {
    const errno = error instanceof OcifsError ? (error.cause as { errno?: number } | undefined)?.errno : undefined;
    if (errno === 22) return; // EINVAL: no mountpoint any more
    await unmount(mountpoint, true);
  }
}

/** "major:minor" as /proc and /sys write it. */
function deviceName(dev: number): string {
  const major = (dev >> 8) & 0xfff;
  const minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
  return `${major}:${minor}`;
}

/** The device of the topmost mount at a path, undefined when none is there. Asks no file system, which might not answer. */
async function deviceAt(mountpoint: string): Promise<string | undefined> {
  const path = mountpoint.replaceAll(/[ \t\n\\]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, "0")}`);
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").map((line) => line.split(" "));
  return mounts.findLast((fields) => fields[4] === path)?.[2];
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
