import { closeSync } from "node:fs";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { driverOf } from "../drivers/choose.js";
import { trimMemory } from "../native/memory.js";
import { type FoundMount, forgetKept, type KeptServedMount, keepMount, type MountKeeping } from "./kept-mounts.js";
import type { MountConfig } from "./mount-config.js";
import { ServedMount, type ServedMountOptions } from "./served-mount.js";
import type { ReadTrace } from "./slow-reads.js";
import type { MountStatus } from "./status.js";

/** Not between mounts that are made one after the other. */
const TRIM_AFTER_MS = 500;

type OpenOptions = Omit<ServedMountOptions, "log" | "signal"> & { readonly signal?: AbortSignal };

interface Row {
  readonly mount: ServedMount;
  readonly keeping: MountKeeping | undefined;
  readonly closed: Promise<void>;
}

/** The mounts of one daemon. Each is described to the service manager, if there is one, so that the next daemon can go on. */
export class MountTable implements AsyncDisposable {
  readonly #log: Log;
  readonly #signal: AbortSignal;
  readonly #rows = new Set<Row>();
  /** Ends of mounts that nobody serves any more. */
  readonly #givenUp = new Set<Promise<void>>();
  #opening = 0;
  #leaving = false;
  #trim: NodeJS.Timeout | undefined;
  #onEmpty: () => void = () => undefined;
  #failure: unknown;

  /** `signal` ends the work of all mounts. */
  constructor(log: Log, signal: AbortSignal) {
    this.#log = log;
    this.#signal = signal;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** Why no further mount is taken, as a sentence. */
  get refusal(): string | undefined {
    if (this.#leaving || this.#signal.aborted) return "this daemon is about to end";
    const full = this.#rows.size + this.#opening >= limits.mountsOfDaemon;
    return full ? `this daemon has ${limits.mountsOfDaemon} mounts, its limit` : undefined;
  }

  /** Makes a mount; resolves when it answers. `limit` when there are too many. `signal` ends it as the table's does. */
  open(config: MountConfig, how: Omit<OpenOptions, "kept"> = {}): Promise<ServedMount> {
    return this.#add(config, how);
  }

  /**
   * Goes on with a mount of the daemon before this one. One that cannot be gone on with, whatever happens next, is given up:
   * it answers ENOTCONN from then on, and what is wrong is logged. Throws what may pass.
   */
  async adopt(found: FoundMount): Promise<void> {
    const { names } = found;
    const kept = "kept" in found ? found.kept : undefined;
    let unclaimed = kept;
    try {
      if ("error" in found) throw found.error;
      const onAdopt = () => {
        unclaimed = undefined;
      };
      await this.#add(found.kept.config, { kept: found.kept, onAdopt }, { forget: () => forgetKept(names) });
    } catch (error) {
      const passing = mayPass(error);
      if (!passing) this.#log.error("a mount cannot be gone on with", { reason: messageOf(error) });
      if (unclaimed && !passing && driverOf(unclaimed.driver).giveUp) {
        this.#giveUp(unclaimed, names);
        return;
      }
      for (const fd of Object.values(unclaimed?.mount.fds ?? {})) closeSync(fd);
      if (passing) throw error;
      await forgetKept(names);
    }
  }

  statuses(): MountStatus[] {
    return [...this.#rows].map(({ mount }) => mount.status());
  }

  slowReads(): ReadTrace[] {
    return [...this.#rows].flatMap(({ mount }) => mount.slowReads());
  }

  /** Unmounts what is mounted there; `not-found` when that is none of ours. */
  async close(mountpoint: string): Promise<void> {
    // The last one covers the others.
    const row = [...this.#rows].findLast(({ mount }) => mount.config.mountpoint === mountpoint);
    if (!row) throw new OcifsError("not-found", `${mountpoint}: this daemon has no mount there`);
    await row.mount[Symbol.asyncDispose]();
    await row.closed;
  }

  /** Resolves when there is no mount any more; rejects when one of them broke. */
  async empty(): Promise<void> {
    while (!this.#isEmpty) {
      await new Promise<void>((resolve) => {
        this.#onEmpty = resolve;
      });
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Throws `unsupported` when some mount would not outlive this daemon. */
  checkKept(): void {
    const lost = [...this.#rows].find(({ keeping }) => keeping === undefined)?.mount;
    if (lost === undefined) return;
    const { driver, config } = lost;
    throw new OcifsError(
      "unsupported",
      `${config.mountpoint}: this mount (driver ${driver}) ends with its daemon; unmount it`,
    );
  }

  /** Stops serving and leaves all mounts to the next daemon. */
  async leave(): Promise<void> {
    this.#leaving = true;
    await Promise.all([...this.#rows].map(({ mount }) => mount.leave()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const rows = [...this.#rows];
    const ends = await Promise.allSettled(rows.map(({ mount }) => mount[Symbol.asyncDispose]()));
    if (!this.#leaving) await Promise.all([...rows.map(({ closed }) => closed), ...this.#givenUp]);
    for (const end of ends) if (end.status === "rejected") throw end.reason;
  }

  /** This daemon stays until the kernel has no use for the mount any more. */
  #giveUp({ config, driver, mount }: KeptServedMount, names: readonly string[]): void {
    const end = async () => {
      try {
        await driverOf(driver).giveUp?.(config.mountpoint, mount);
        await forgetKept(names);
      } catch (error) {
        this.#log.error("a mount was not given up as it should be", { reason: messageOf(error) });
      }
      this.#givenUp.delete(ended);
      this.#wake();
    };
    const ended: Promise<void> = end();
    this.#givenUp.add(ended);
  }

  /** `keeping` is that of a mount that is kept already. */
  async #add(config: MountConfig, { signal, ...how }: OpenOptions, keeping?: MountKeeping): Promise<ServedMount> {
    if (this.#rows.size + this.#opening >= limits.mountsOfDaemon) {
      throw new OcifsError("limit", `${config.mountpoint}: ${this.refusal}`);
    }
    this.#opening++;
    let early: MountKeeping | undefined;
    const keepFirst = async (described: KeptServedMount) => {
      early = await keepMount(described);
    };
    try {
      const log = this.#log;
      const ends = signal ? AbortSignal.any([signal, this.#signal]) : this.#signal;
      const mount = await ServedMount.open(config, { ...how, keepFirst, log, signal: ends });
      const kept = keeping ?? early ?? (await this.#keep(mount));
      const row: Row = { mount, keeping: kept, closed: this.#watch(mount, () => row) };
      this.#rows.add(row);
      log.info("mounted", {
        mountpoint: config.mountpoint,
        source: config.source,
        driver: mount.driver,
        reason: mount.driverReason,
      });
      return mount;
    } catch (error) {
      await early?.forget();
      throw error;
    } finally {
      this.#opening--;
      this.#trimSoon();
      this.#wake();
    }
  }

  async #keep(mount: ServedMount): Promise<MountKeeping | undefined> {
    try {
      return await keepMount(mount.keep());
    } catch (error) {
      // The mount works; it would not outlive this process.
      this.#log.warn("the mount cannot be kept for the next daemon", { reason: messageOf(error) });
      return undefined;
    }
  }

  /** Closes what belongs to a mount when it has gone, by whoever's hand. */
  async #watch(mount: ServedMount, row: () => Row): Promise<void> {
    try {
      await mount.ended;
    } catch (error) {
      this.#failure ??= error;
      this.#log.error("the mount broke", { mountpoint: mount.config.mountpoint, reason: messageOf(error) });
    }
    if (this.#leaving) return;
    try {
      await mount[Symbol.asyncDispose]();
      await row().keeping?.forget();
    } catch (error) {
      this.#log.error("a mount was not closed as it should be", { reason: messageOf(error) });
    }
    this.#log.info("unmounted", { mountpoint: mount.config.mountpoint });
    this.#rows.delete(row());
    this.#wake();
  }

  get #isEmpty(): boolean {
    return this.#rows.size === 0 && this.#opening === 0 && this.#givenUp.size === 0;
  }

  /** Opening an image takes much more memory than serving it, above all when indexes are built. */
  #trimSoon(): void {
    clearTimeout(this.#trim);
    this.#trim = setTimeout(() => void trimMemory(), TRIM_AFTER_MS);
    this.#trim.unref();
  }

  #wake(): void {
    if (this.#isEmpty) this.#onEmpty();
  }
}

/** What another try may bring: the rest will be the same next time. */
function mayPass(error: unknown): boolean {
  const codes = ["network", "timeout", "unauthorized", "busy", "aborted", "no-space"] as const;
  return codes.some((code) => isOcifsError(error, code));
}
