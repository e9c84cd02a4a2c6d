import { close, fstat, open } from "node:fs";
import { promisify } from "node:util";
import { Cleanup } from "../base/cleanup.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { mountErofs, mountFuseDetached, probeFileSystem } from "../native/mount.js";
import type { Driver, DriverStats, KeptMount, Mounted, MountRequest } from "./driver.js";
import { sessionFdsOf } from "./kept-session.js";
import { readOnlyMountAttributes } from "./mount-flags.js";
import { detach, deviceAt, deviceName } from "./mountpoint.js";
import { raiseReadahead, Serving } from "./serving.js";

/**
 * The kernel's EROFS on the tarindex, its devices being files: of a layer that is complete the cache's own, of others files of a FUSE
 * mount that no path leads to, served by this process. The kernel keeps what it has opened: when the last reference to the EROFS mount
 * goes, the FUSE mount below goes with it, and its session ends.
 */
export const erofsDriver: Driver = {
  name: "erofs",

  async unavailable({ tree }) {
    if (process.getuid?.() !== 0) return "mounting EROFS needs root";
    if (tree.image.info().blockSizeBytes < 512) return "the tarindex has blocks that the kernel does not take";
    for (const type of ["erofs", "fuse"]) {
      try {
        await probeFileSystem(type);
      } catch (error) {
        return messageOf(error);
      }
    }
    return undefined;
  },

  async mount(request) {
    const { fuseFd, mountFd } = mountFuseDetached();
    await using cleanup = new Cleanup();
    cleanup.defer(() => closeFd(mountFd));
    const serving = new Serving(request, [fuseFd], "devices");
    try {
      // Before the files are opened: each file takes the readahead of its mount as it is then.
      await raiseReadahead(deviceName((await promisify(fstat)(mountFd)).dev));
      await makeMount(request, mountFd, cleanup);
      return await ErofsMount.begin(request, serving);
    } catch (error) {
      await serving.stop();
      throw error;
    }
  },

  async adopt(request, kept) {
    const fds = sessionFdsOf(kept, request.mountpoint);
    const serving = new Serving(request, fds, "devices");
    const device = String(kept.facts.device);
    try {
      // What the process before us had read and not answered waits for ever otherwise.
      serving.resend();
    } catch (error) {
      await serving.stop({ answer: false });
      throw error;
    }
    return new ErofsMount(request, serving, device);
  },
};

const closeFd = promisify(close);

async function makeMount(request: MountRequest, mountFd: number, cleanup: Cleanup): Promise<void> {
  const { tree, flags } = request;
  const openFile = async (name: string): Promise<number> => {
    const fd = await promisify(open)(`/proc/self/fd/${mountFd}/${name}`, "r");
    cleanup.defer(() => closeFd(fd));
    return fd;
  };
  const imageFd = await openFile("index");
  const deviceFds: number[] = [];
  for (const slot of tree.devices.keys()) {
    const lent = await tree.lend?.(slot);
    if (lent !== undefined) cleanup.defer(() => closeFd(lent));
    deviceFds.push(lent ?? (await openFile(String(slot + 1))));
  }
  await mountErofs({
    target: request.mountpoint,
    source: request.sourceName,
    imageFd,
    deviceFds,
    options: [...(flags.silent ? [["silent", ""] as const] : []), ...request.securityOptions.map(splitOption)],
    attributes: readOnlyMountAttributes(flags),
  });
}

/** `key=value`; quotes around a value belong to the data string of mount(2) and not to the value. */
function splitOption(option: string): readonly [string, string] {
  const at = option.indexOf("=");
  if (at < 0) return [option, ""];
  return [option.slice(0, at), option.slice(at + 1).replace(/^"(.*)"$/s, "$1")];
}

class ErofsMount implements Mounted {
  readonly driver = "erofs";
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #serving: Serving;
  /** "major:minor" of the EROFS mount. */
  readonly #device: string;
  #ending: Promise<void> | undefined;

  constructor(request: MountRequest, serving: Serving, device: string) {
    this.mountpoint = request.mountpoint;
    this.ended = serving.ended;
    this.#serving = serving;
    this.#device = device;
  }

  /** Of a mount that has just been made. */
  static async begin(request: MountRequest, serving: Serving): Promise<ErofsMount> {
    const device = await deviceAt(request.mountpoint);
    if (device === undefined) throw new OcifsError("io", `${request.mountpoint}: unmounted by somebody right away`);
    await raiseReadahead(device);
    return new ErofsMount(request, serving, device);
  }

  stats(): DriverStats {
    return this.#serving.stats();
  }

  keep(): KeptMount {
    return { fds: this.#serving.keptFds(), facts: { device: this.#device } };
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
    // First the mount above: while anything of it is read, it reads from the files below.
    if (!this.#serving.over && (await deviceAt(this.mountpoint)) === this.#device) await detach(this.mountpoint, true);
    await this.#serving.stop();
  }
}
