import { closeSync } from "node:fs";
import { messageOf, OcifsError } from "../base/errors.js";
import { bootId } from "../cache/cache-directory.js";
import { createEventGroup, type EventFds } from "../native/fanotify.js";
import { attachMount } from "../native/mount.js";
import { closeFd, erofsOptionsOf, whyNotMountable } from "./device-mount.js";
import {
  type Driver,
  type DriverStats,
  type KeptMount,
  type Mounted,
  type MountRequest,
  madeElsewhere,
  untimed,
} from "./driver.js";
import { Events, makeEventMount } from "./event-mount.js";
import { whyEventsFail } from "./fanotify-probe.js";
import { factsOfPlace, type KnownPlace, knownPlaceOfFacts } from "./kept-place.js";
import { detachFrom } from "./mountpoint.js";

/**
 * The kernel's EROFS on the layers' own files in the cache. Before it reads a part of one it asks (fanotify, FAN_PRE_ACCESS), and waits until
 * that part was filled. With the last descriptor of the fanotify group nobody is asked any more, and holes are read as zeros. So
 * the keeper has the group before the mount can be reached, and this process as long as anything can read it.
 */
export const fanotifyDriver: Driver = {
  name: "fanotify",

  async unavailable({ keeper, tree, makeMount }) {
    if (makeMount) return madeElsewhere;
    const why = await whyNotMountable("erofs");
    if (why !== undefined) return why;
    if (!keeper) {
      return "without a process that keeps its descriptors, its files would read as zeros after the daemon's death; mount without foreground, so that the keeper runs";
    }
    if (tree.directory === undefined) return "there is no disk cache that the kernel could read";
    try {
      const { groupFd, tableFd } = createEventGroup();
      for (const fd of [groupFd, tableFd]) closeSync(fd);
      return undefined;
    } catch (error) {
      return `the kernel has no events before reads, Linux 6.14 and later do: ${messageOf(error)}`;
    }
  },

  async mount(request) {
    const { keeper, tree, mountpoint } = request;
    if (!keeper) throw new OcifsError("unsupported", "driver=fanotify: nobody keeps its descriptors");
    const unfit = await whyEventsFail(String(tree.directory), await bootId());
    if (unfit !== undefined) throw new OcifsError("unsupported", `this kernel is not fit for it: ${unfit}`);
    const erofs = erofsOptionsOf(request);
    const { events, mountFd, device } = await makeEventMount({ ...request, guardPid: keeper.pid }, erofs);
    const mounted = new EventsMount(request, events, { mountpoint, device, namespace: request.namespace?.id });
    let attached = false;
    try {
      // In this order: whoever can reach the mount is protected from this process' death.
      await keeper.keep("fanotify", mounted.keep());
      await attachMount(mountFd, mountpoint, request.namespace?.path);
      attached = true;
      return mounted;
    } finally {
      await closeFd(mountFd);
      if (!attached) await mounted.unmount();
    }
  },

  async adopt(request, kept) {
    const fds = eventFdsOf(kept, request.mountpoint);
    const place = knownPlaceOfFacts(request.mountpoint, kept.facts);
    try {
      const events = new Events({ ...request, guardPid: request.keeper?.pid }, fds, { adopted: true });
      return new EventsMount(request, events, place);
    } catch (error) {
      // Its files may be read as zeros as soon as the keeper forgets it.
      await detachFrom(place, true);
      throw error;
    }
  },

  async giveUp(mountpoint, kept) {
    const fds = eventFdsOf(kept, mountpoint);
    const request = { tree: { devices: [] }, onMiss: () => undefined, guardPid: undefined };
    const events = new Events(request, fds, { adopted: true });
    events.watcher.refuse();
    await detachFrom(knownPlaceOfFacts(mountpoint, kept.facts), true);
    await events.released;
    await events.watcher.stop();
  },
};

function eventFdsOf({ fds }: KeptMount, mountpoint: string): EventFds {
  const { events: groupFd, table: tableFd, index: indexFd } = fds;
  if (groupFd !== undefined && tableFd !== undefined && indexFd !== undefined) return { groupFd, tableFd, indexFd };
  for (const fd of Object.values(fds)) closeSync(fd);
  throw new OcifsError("corrupt", `${mountpoint}: not all descriptors of its events were kept`);
}

const noStats: DriverStats = { requests: 0, reads: 0, readBytes: 0, parked: 0, interrupted: 0, errors: 0, ...untimed };

class EventsMount implements Mounted {
  readonly driver = "fanotify";
  readonly mountpoint: string;
  readonly ended: Promise<void>;
  readonly #events: Events;
  /** Of the EROFS mount. */
  readonly #place: KnownPlace;
  #over = false;
  #lastStats = noStats;
  #ending: Promise<void> | undefined;

  constructor(request: MountRequest, events: Events, place: KnownPlace) {
    this.mountpoint = place.mountpoint;
    this.#events = events;
    this.#place = place;
    this.ended = events.released.then(() => {
      this.#over = true;
    });
    void events.guardGone.then(() => this.#unguarded(request.onWarning ?? (() => undefined)));
  }

  get namespace(): string | undefined {
    return this.#place.namespace;
  }

  stats(): DriverStats {
    if (this.#ending) return this.#lastStats;
    const { events, bytes, parked, denied } = this.#events.watcher.stats();
    return { requests: events, reads: events, readBytes: bytes, parked, interrupted: 0, errors: denied, ...untimed };
  }

  keep(): KeptMount {
    const { groupFd, tableFd, indexFd } = this.#events.watcher.fds();
    return { fds: { events: groupFd, table: tableFd, index: indexFd }, facts: factsOfPlace(this.#place) };
  }

  /** Resolves when the kernel has let go of it: files that are open keep this process, which refuses what they miss. */
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
    this.#lastStats = this.stats();
    this.#events.watcher.refuse();
    await this.#detach();
    await this.#events.released;
    await this.#events.watcher.stop();
  }

  async #leave(): Promise<void> {
    this.#lastStats = this.stats();
    await this.#events.watcher.stop({ answer: false });
  }

  async #unguarded(warn: (message: string) => void): Promise<void> {
    if (this.#ending) return;
    warn(
      `${this.mountpoint}: its keeper has ended, and after this process its files would read as zeros; it is unmounted`,
    );
    await this.#detach().catch((error: unknown) => warn(`${this.mountpoint}: ${messageOf(error)}`));
  }

  async #detach(): Promise<void> {
    if (!this.#over) await detachFrom(this.#place, true);
  }
}
