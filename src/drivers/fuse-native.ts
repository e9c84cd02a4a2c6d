import { close } from "node:fs";
import { readdir, readlink, stat } from "node:fs/promises";
import { promisify } from "node:util";
import { messageOf, OcifsError } from "../base/errors.js";
import { duplicateFd, SocketPoller } from "../native/fdpass.js";
import {
  type Driver,
  type DriverStats,
  type KeptMount,
  type Mounted,
  type MountRequest,
  madeElsewhere,
} from "./driver.js";
import { isRoot } from "./fuse-mount.js";
import { loadFuseNative, newPackageMount, type PackageMount } from "./fuse-native-package.js";
import { PathTree } from "./fuse-native-tree.js";
import { setFlags } from "./mount-flags.js";
import { detach, detachFrom, deviceName } from "./mountpoint.js";

/** The package copies path and options into arrays of 1024 bytes each, and cuts off what is too long. */
const TEXT_BYTES = 1023;
/** 2^31 - 1 seconds: nothing changes while it is mounted. */
const FOREVER = 0x7fffffff;

/** Flags that libfuse 2 has a word for; the others say nothing on a mount that never writes a time. */
const knownFlags = ["nosuid", "nodev", "noexec", "noatime"] as const;

/**
 * The tree through the npm package fuse-native and libfuse 2, for systems where the driver fuse cannot be had: slower, without names that
 * are not UTF-8, and gone with its process (docs/SEMANTICS.md).
 */
export const fuseNativeDriver: Driver = {
  name: "fuse-native",

  async unavailable({ mountpoint, flags, securityOptions, makeMount, namespace }) {
    if (makeMount) return madeElsewhere;
    if (namespace) return "it mounts in its own mount namespace only";
    if (flags.nosymfollow) return "libfuse 2 has no nosymfollow";
    if (securityOptions.length > 0) return `it does not pass ${securityOptions.join(",")} on`;
    if (Buffer.byteLength(mountpoint) > TEXT_BYTES) return `its mountpoints have up to ${TEXT_BYTES} bytes`;
    try {
      loadFuseNative();
    } catch (error) {
      return `the package fuse-native or its libfuse 2 cannot be loaded: ${messageOf(error).split("\n")[0]}`;
    }
    return undefined;
  },

  mount(request) {
    const mounting = previous.then(() => FuseNativeMount.start(request));
    previous = mounting.catch(() => undefined);
    return mounting;
  },

  async adopt(request) {
    throw new OcifsError("internal", `${request.mountpoint}: a mount of driver fuse-native is never kept`);
  },
};

/** One at a time: a session's descriptor is the one that was not there before. */
let previous: Promise<unknown> = Promise.resolve();

class FuseNativeMount implements Mounted {
  readonly driver = "fuse-native";
  readonly namespace = undefined;
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #tree: PathTree;
  readonly #package: PackageMount;
  #onEnd: () => void = () => undefined;
  #over = false;
  #ending: Promise<void> | undefined;
  /** "major:minor" of the mounted file system. */
  #device = "";

  private constructor(request: MountRequest) {
    this.mountpoint = request.mountpoint;
    this.#tree = new PathTree(request);
    this.#package = newPackageMount(request.mountpoint, this.#tree.handlers, optionsOf(request));
    this.ended = new Promise((resolve) => {
      this.#onEnd = () => {
        this.#over = true;
        resolve();
      };
    });
  }

  static async start(request: MountRequest): Promise<FuseNativeMount> {
    const mount = new FuseNativeMount(request);
    const before = await sessionFds();
    try {
      await promisify((done: (error: Error | null) => void) => mount.#package.mount(done))();
    } catch (error) {
      throw new OcifsError("io", `fuse-native could not mount ${request.mountpoint}: ${messageOf(error)}`, {
        cause: error,
      });
    }
    try {
      const fds = (await sessionFds()).filter((fd) => !before.includes(fd));
      const [fd] = fds;
      if (fd === undefined || fds.length > 1) {
        throw new OcifsError("internal", `${request.mountpoint}: libfuse's session has ${fds.length} descriptors`);
      }
      void mount.#watch(duplicateFd(fd));
      mount.#device = deviceName((await stat(request.mountpoint)).dev);
      return mount;
    } catch (error) {
      await detach(request.mountpoint, isRoot());
      await mount.#finish();
      throw error;
    }
  }

  stats(): DriverStats {
    return this.#tree.stats();
  }

  keep(): KeptMount {
    throw new OcifsError("unsupported", `${this.mountpoint}: with driver=fuse-native a mount ends with its daemon`);
  }

  unmount(): Promise<void> {
    this.#ending ??= this.#unmount();
    return this.#ending;
  }

  /** It cannot be left to another process, and a mount that nobody answers would only be in the way. */
  leave(): Promise<void> {
    return this.unmount();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmount();
  }

  async #unmount(): Promise<void> {
    // First, since what waits would keep umount busy.
    this.#tree.stop();
    const place = { mountpoint: this.mountpoint, device: this.#device, namespace: this.namespace };
    if (!this.#over) await detachFrom(place, isRoot());
    await this.#finish();
  }

  /** What is still open is answered with EIO until this process ends. */
  async #finish(): Promise<void> {
    await promisify((done: (error: Error | null) => void) => this.#package.unmount(done))();
    this.#onEnd();
  }

  /** The kernel reports an error on a session's descriptor when nothing of the mount is left. Takes over a duplicate of it. */
  async #watch(fd: number): Promise<void> {
    using poller = new SocketPoller();
    const waiting = poller.ready(fd, "broken");
    void this.ended.then(() => poller.forget(fd));
    await waiting;
    await promisify(close)(fd);
    this.#onEnd();
  }
}

/** Descriptors of /dev/fuse that this process has. */
async function sessionFds(): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir("/proc/self/fd")) {
    // One that was closed meanwhile is none.
    const target = await readlink(`/proc/self/fd/${name}`).catch(() => "");
    if (target === "/dev/fuse") found.push(Number(name));
  }
  return found;
}

function optionsOf({ sourceName, allowOther, flags }: MountRequest): string {
  const set = setFlags(flags);
  const options = [
    "ro",
    "default_permissions",
    ...(isRoot() || allowOther ? ["allow_other"] : []),
    ...knownFlags.filter((flag) => set.includes(flag)),
    // libfuse sets both by itself, and lets root alone change that.
    ...(isRoot() && !flags.nosuid ? ["suid"] : []),
    ...(isRoot() && !flags.nodev ? ["dev"] : []),
    "use_ino",
    "kernel_cache",
    ...["entry_timeout", "negative_timeout", "attr_timeout"].map((name) => `${name}=${FOREVER}`),
    "subtype=ocifs",
  ];
  const source = `fsname=${sourceName.replaceAll(/[\\,]/g, (c) => `\\${c}`)}`;
  const whole = [...options, source].join(",");
  return Buffer.byteLength(`-o${whole}`) <= TEXT_BYTES ? whole : options.join(",");
}
