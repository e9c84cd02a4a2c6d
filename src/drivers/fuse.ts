import { stat } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";
import { mountFuse } from "../native/fuse.js";
import type { Driver, DriverStats, KeptMount, Mounted, MountRequest } from "./driver.js";
import { mountThroughFusermount } from "./fusermount.js";
import { sessionFdsOf } from "./kept-session.js";
import { readOnlyMountBits } from "./mount-flags.js";
import { detach, deviceAt, deviceName } from "./mountpoint.js";
import { raiseReadahead, Serving } from "./serving.js";

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
    const { device } = kept.facts;
    const fds = sessionFdsOf(kept, request.mountpoint);
    return FuseMount.adopt(request, fds, isRoot(), typeof device === "string" ? device : undefined);
  },
};

const isRoot = (): boolean => process.getuid?.() === 0;

class FuseMount implements Mounted {
  readonly driver = "fuse";
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #serving: Serving;
  readonly #privileged: boolean;
  #ending: Promise<void> | undefined;
  /** "major:minor" of the mounted file system, once it has answered. */
  #device: string | undefined;

  private constructor(request: MountRequest, serving: Serving, privileged: boolean) {
    this.mountpoint = request.mountpoint;
    this.ended = serving.ended;
    this.#serving = serving;
    this.#privileged = privileged;
  }

  /** Takes the descriptor over, also when it fails; the mount itself is then the caller's to remove. */
  static async start(request: MountRequest, fd: number, privileged: boolean): Promise<FuseMount> {
    const mount = new FuseMount(request, new Serving(request, [fd], "tree"), privileged);
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
    const mount = new FuseMount(request, new Serving(request, fds, "tree"), privileged);
    mount.#device = device;
    try {
      // What the process before us had read and not answered waits for ever otherwise.
      mount.#serving.resend();
      return mount;
    } catch (error) {
      await mount.leave();
      throw error;
    }
  }

  stats(): DriverStats {
    return this.#serving.stats();
  }

  keep(): KeptMount {
    return { fds: this.#serving.keptFds(), facts: this.#device === undefined ? {} : { device: this.#device } };
  }

  unmount(): Promise<void> {
    this.#ending ??= this.#unmount();
    return this.#ending;
  }

  leave(): Promise<void> {
    this.#ending ??= this.#serving.stop({ answer: false });
    return this.#ending;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unmount();
  }

  async #unmount(): Promise<void> {
    // Unmounting goes by path: what covers this mount, or took its place after umount -l, is not ours to remove.
    if (!this.#serving.over && (this.#device === undefined || (await deviceAt(this.mountpoint)) === this.#device)) {
      await detach(this.mountpoint, this.#privileged);
    }
    await this.#serving.stop();
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
