import type { Driver, DriverStats, KeptMount, MadeMount, Mounted, MountRequest } from "./driver.js";
import { finishFuseMount, isRoot, mountFuseAt } from "./fuse-mount.js";
import { factsOfPlace, placeOfFacts } from "./kept-place.js";
import { sessionFdsOf } from "./kept-session.js";
import { detachFrom, type MountPlace } from "./mountpoint.js";
import { Serving } from "./serving.js";

/** The tree through our own FUSE session: mount(2) as root, fusermount3 otherwise. */
export const fuseDriver: Driver = {
  name: "fuse",

  async unavailable() {
    return undefined;
  },

  async mount(request) {
    if (request.makeMount) return FuseMount.start(request, await request.makeMount(), async ({ device }) => device);
    const made = await mountFuseAt(request);
    try {
      return await FuseMount.start(request, made, (each) => finishFuseMount(request, each));
    } catch (error) {
      await detachFrom({ mountpoint: request.mountpoint, device: made.device, namespace: made.namespace }, isRoot());
      throw error;
    }
  },

  async adopt(request, kept) {
    const fds = sessionFdsOf(kept, request.mountpoint);
    return FuseMount.adopt(request, fds, placeOfFacts(request.mountpoint, kept.facts));
  },
};

class FuseMount implements Mounted {
  readonly driver = "fuse";
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #serving: Serving;
  #place: MountPlace;
  #ending: Promise<void> | undefined;

  private constructor(place: MountPlace, serving: Serving) {
    this.mountpoint = place.mountpoint;
    this.ended = serving.ended;
    this.#serving = serving;
    this.#place = place;
  }

  /** Takes the descriptor over, also when it fails; the mount itself is then the caller's to remove. `finish` resolves to the device. */
  static async start(
    request: MountRequest,
    made: MadeMount,
    finish: (made: MadeMount) => Promise<string | undefined>,
  ): Promise<FuseMount> {
    const { device, namespace } = made;
    const place = { mountpoint: request.mountpoint, device, namespace };
    const mount = new FuseMount(place, new Serving(request, [made.fd], "tree"));
    try {
      mount.#place = { ...place, device: await finish(made) };
      return mount;
    } catch (error) {
      await mount.leave();
      throw error;
    }
  }

  /** The same for a mount that is there. */
  static async adopt(request: MountRequest, fds: readonly number[], place: MountPlace): Promise<FuseMount> {
    const mount = new FuseMount(place, new Serving(request, fds, "tree"));
    try {
      // What the process before us had read and not answered waits for ever otherwise.
      mount.#serving.resend();
      return mount;
    } catch (error) {
      await mount.leave();
      throw error;
    }
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
    if (!this.#serving.over) await detachFrom(this.#place, isRoot());
    await this.#serving.stop();
  }
}
