import { OcifsError } from "../base/errors.js";
import { attachMount } from "../native/mount.js";
import { closeFd, erofsOptionsOf, makeDeviceMount, whyNotMountable } from "./device-mount.js";
import { type Driver, type DriverStats, type KeptMount, type Mounted, madeElsewhere } from "./driver.js";
import { whyErofsIsUnsafe } from "./erofs-probe.js";
import { factsOfPlace, type KnownPlace, knownPlaceOfFacts } from "./kept-place.js";
import { sessionFdsOf } from "./kept-session.js";
import { detachFrom } from "./mountpoint.js";
import { Serving } from "./serving.js";

/**
 * The kernel's EROFS on the tarindex, its devices being files: of a layer that is complete the cache's own, of others files of a FUSE
 * mount that no path leads to, served by this process. The kernel keeps what it has opened: when the last reference to the EROFS mount
 * goes, the FUSE mount below goes with it, and its session ends.
 */
export const erofsDriver: Driver = {
  name: "erofs",

  async unavailable(request) {
    return request.makeMount ? madeElsewhere : await whyNotMountable("erofs", "fuse");
  },

  async mount(request) {
    const unsafe = await whyErofsIsUnsafe();
    if (unsafe !== undefined) throw new OcifsError("unsupported", `this kernel is not fit for it: ${unsafe}`);
    const { serving, mountFd, device } = await makeDeviceMount(request, erofsOptionsOf(request));
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
    try {
      // What the process before us had read and not answered waits for ever otherwise.
      serving.resend();
    } catch (error) {
      await serving.stop({ answer: false });
      throw error;
    }
    return new ErofsMount(knownPlaceOfFacts(request.mountpoint, kept.facts), serving);
  },
};

class ErofsMount implements Mounted {
  readonly driver = "erofs";
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #serving: Serving;
  /** Of the EROFS mount. */
  readonly #place: KnownPlace;
  #ending: Promise<void> | undefined;

  constructor(place: KnownPlace, serving: Serving) {
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
    return { fds: this.#serving.keptFds(), facts: factsOfPlace(this.#place) };
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
