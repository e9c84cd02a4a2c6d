import { messageOf, OcifsError } from "../base/errors.js";
import { attachMount, probeFileSystem } from "../native/mount.js";
import { closeFd, makeDeviceMount } from "./device-mount.js";
import type { Driver, DriverStats, KeptMount, Mounted } from "./driver.js";
import { whyErofsIsUnsafe } from "./erofs-probe.js";
import { sessionFdsOf } from "./kept-session.js";
import { readOnlyMountAttributes } from "./mount-flags.js";
import { detachFrom, type MountPlace } from "./mountpoint.js";
import { Serving } from "./serving.js";

/**
 * The kernel's EROFS on the tarindex, its devices being files: of a layer that is complete the cache's own, of others files of a FUSE
 * mount that no path leads to, served by this process. The kernel keeps what it has opened: when the last reference to the EROFS mount
 * goes, the FUSE mount below goes with it, and its session ends.
 */
export const erofsDriver: Driver = {
  name: "erofs",

  async unavailable(request) {
    if (process.getuid?.() !== 0) return "mounting EROFS needs root";
    if (request.makeMount) return "the mount is made by another process, which makes FUSE mounts only";
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
    const unsafe = await whyErofsIsUnsafe();
    if (unsafe !== undefined) throw new OcifsError("unsupported", `this kernel is not fit for it: ${unsafe}`);
    const { flags, sourceName } = request;
    const { serving, mountFd, device } = await makeDeviceMount(request, {
      sourceName,
      options: [...(flags.silent ? [["silent", ""] as const] : []), ...request.securityOptions.map(splitOption)],
      attributes: readOnlyMountAttributes(flags),
    });
    try {
      await attachMount(mountFd, request.mountpoint, request.namespace?.path);
      return new ErofsMount({ mountpoint: request.mountpoint, device, namespace: request.namespace?.id }, serving);
    } catch (error) {
      await serving.stop();
      throw error;
    } finally {
      await closeFd(mountFd);
    }
  },

  async adopt(request, kept) {
    const fds = sessionFdsOf(kept, request.mountpoint);
    const serving = new Serving(request, fds, "devices");
    const { device, namespace } = kept.facts;
    try {
      // What the process before us had read and not answered waits for ever otherwise.
      serving.resend();
    } catch (error) {
      await serving.stop({ answer: false });
      throw error;
    }
    const place = { mountpoint: request.mountpoint, device: String(device) };
    return new ErofsMount({ ...place, namespace: typeof namespace === "string" ? namespace : undefined }, serving);
  },
};

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
  /** Of the EROFS mount. */
  readonly #place: MountPlace & { readonly device: string };
  #ending: Promise<void> | undefined;

  constructor(place: MountPlace & { readonly device: string }, serving: Serving) {
    this.mountpoint = place.mountpoint;
    this.ended = serving.ended;
    this.#serving = serving;
    this.#place = place;
  }

  get namespace(): string | undefined {
    return this.#place.namespace;
  }

  stats(): DriverStats {
    return this.#serving.stats();
  }

  keep(): KeptMount {
    const { device, namespace } = this.#place;
    return { fds: this.#serving.keptFds(), facts: { device, ...(namespace === undefined ? {} : { namespace }) } };
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
    if (!this.#serving.over) await detachFrom(this.#place, true);
    await this.#serving.stop();
  }
}
