import { dirname } from "node:path";
import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { type Problem, problemNow } from "../base/problem.js";
import { version } from "../base/version.js";
import { type ChosenMount, driverOf, mountWithDriver } from "../drivers/choose.js";
import type { DescriptorKeeper, DriverName, KeptMount, MadeMount, Mounted, MountRequest } from "../drivers/driver.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { type MountableImage, openMountableImage } from "../image/mountable-image.js";
import { pinSource } from "../image/pinned-source.js";
import type { TagAnswer } from "../image/tag-answer.js";
import { digestOfTree } from "../image/tree-digest.js";
import { BackgroundFill } from "./background-fill.js";
import { keeperPid, restartCount } from "./keeper.js";
import type { KeptServedMount } from "./kept-mounts.js";
import { MissHandler } from "./miss-handler.js";
import type { MountConfig } from "./mount-config.js";
import { type ReadTrace, SlowReads } from "./slow-reads.js";
import type { MountStatus } from "./status.js";

/** Warnings of one opening that are passed on to who asked for it. */
const WARNINGS_MAX = 10;

export interface ServedMountOptions {
  readonly log: Log;
  /** Ends the opening, and later the mount's work, not the mount itself. */
  readonly signal: AbortSignal;
  /** See MetadataCache. */
  readonly tagAnswer?: Promise<TagAnswer | undefined>;
  /** Called while indexes that are missing are built. */
  readonly onBuildProgress?: (progress: BuildProgress) => void;
  /** See MountRequest. */
  readonly makeMount?: () => Promise<MadeMount>;
  /** Goes on with this mount instead of making one. */
  readonly kept?: KeptServedMount;
  /** The kept mount's descriptors are no more the caller's. */
  readonly onAdopt?: () => void;
  /** Gives a mount to the process that keeps it; undefined where there is none. */
  readonly keepFirst?: ((mount: KeptServedMount) => Promise<void>) | undefined;
}

/** One mount: the image, what fetches it, and what the kernel sees of it. */
export class ServedMount implements AsyncDisposable {
  readonly config: MountConfig;
  /** What the user should hear of, though the mount was made. */
  readonly warnings: readonly string[];
  readonly driverReason: string;
  readonly #mountedAt: string;
  readonly #parts: Parts;
  readonly #cleanup: Cleanup;
  #ending: Promise<void> | undefined;
  #lastStatus: MountStatus | undefined;

  private constructor(
    config: MountConfig,
    parts: Parts,
    found: { readonly warnings: readonly string[]; readonly driverReason: string; readonly mountedAt: string },
    cleanup: Cleanup,
  ) {
    this.config = config;
    this.warnings = found.warnings;
    this.driverReason = found.driverReason;
    this.#mountedAt = found.mountedAt;
    this.#parts = parts;
    this.#cleanup = cleanup;
  }

  /**
   * Resolves when the mount answers. What fails leaves nothing mounted, and a kept mount as it was. Descriptors of a kept mount
   * are the caller's until `onAdopt` was called.
   */
  static async open(config: MountConfig, o: ServedMountOptions): Promise<ServedMount> {
    const { kept } = o;
    const cleanup = new Cleanup();
    try {
      // Before anything is fetched.
      if (config.driver !== "auto") driverOf(config.driver);
      const warnings: string[] = [];
      const warn = (message: string, fields?: Record<string, unknown>) => {
        if (warnings.length < WARNINGS_MAX) warnings.push(fields?.reason ? `${message}: ${fields.reason}` : message);
        o.log.warn(message, fields);
      };
      const stopping = new AbortController();
      const stop = () => stopping.abort(o.signal.reason ?? new OcifsError("aborted", "mount: it has ended"));
      if (o.signal.aborted) stop();
      o.signal.addEventListener("abort", stop, { once: true });
      cleanup.defer(() => o.signal.removeEventListener("abort", stop));
      const source = kept?.manifestDigest ? pinSource(config.source, kept.manifestDigest) : config.source;
      const image = cleanup.add(
        await openMountableImage(
          { ...config, source, ...o, ...profilesOf(config) },
          { ...o.log, warn },
          stopping.signal,
        ),
      );
      if (kept) checkTree(image, kept);
      const parts = openParts(config, image, o.log, stopping, cleanup);
      const mountedAt = kept?.mountedAt ?? new Date().toISOString();
      const request: MountRequest = {
        mountpoint: config.mountpoint,
        sourceName: config.source,
        tree: {
          image: image.tree,
          devices: image.layers.map((layer) => layer.store),
          lend: async (slot) => image.layers[slot]?.lend(),
          watch: (slot) => watchLayer(image, slot),
          checked: (slot) => image.layers[slot]?.table.digest(0) !== undefined && config.verify !== "none",
          directory: directoryOfLayers(image),
        },
        keeper: keeperOf(o, (driver, mount) => describeKept({ config, driver, mount, image, mountedAt })),
        onWarning: (message) => o.log.warn(message),
        allowOther: config.allowOther,
        flags: config.flags,
        securityOptions: config.securityOptions,
        ...(config.namespace === undefined ? {} : { namespace: config.namespace }),
        ...(o.makeMount === undefined ? {} : { makeMount: o.makeMount }),
        onMiss: (device, first, last, fileEndSpan, parkedMs) =>
          void parts.misses.handle(device, first, last, fileEndSpan, parkedMs),
      };
      if (kept) o.onAdopt?.();
      const { mounted, reason }: ChosenMount = kept
        ? { mounted: await driverOf(kept.driver).adopt(request, kept.mount), reason: "as the daemon before had it" }
        : await mountWithDriver(config.driver, request);
      parts.fill.start();
      return new ServedMount(config, { ...parts, mounted }, { warnings, driverReason: reason, mountedAt }, cleanup);
    } catch (error) {
      await cleanup[Symbol.asyncDispose]();
      throw error;
    }
  }

  get driver(): DriverName {
    return this.#parts.mounted.driver;
  }

  /** Resolves when the mount is gone, whoever unmounted it; rejects when the session broke. */
  get ended(): Promise<void> {
    return this.#parts.mounted.ended;
  }

  /** For the process that goes on with this mount: see `leave`. Descriptors stay the mount's own. */
  keep(): KeptServedMount {
    const { config, driver } = this;
    const { image, mounted } = this.#parts;
    return describeKept({ config, driver, mount: mounted.keep(), image, mountedAt: this.#mountedAt });
  }

  /** As it stands; of a mount that is being closed, as it stood then. */
  status(): MountStatus {
    if (this.#lastStatus) return this.#lastStatus;
    return describe(this.config, this.#parts, { driverReason: this.driverReason, mountedAt: this.#mountedAt });
  }

  /** Reads that had to wait. */
  slowReads(): ReadTrace[] {
    return this.#parts.slow.traces();
  }

  /** Unmounts and closes everything. Reads that wait fail; a busy mount is detached. Idempotent. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  /** Closes everything but the mount, whose reads wait for the process that adopts it. Idempotent. */
  leave(): Promise<void> {
    this.#ending ??= this.#leave();
    return this.#ending;
  }

  async #end(): Promise<void> {
    this.#lastStatus = this.status();
    // Reads that wait for the network end now; the unmount would otherwise wait for them.
    this.#parts.stopping.abort(new OcifsError("aborted", "mount: it has ended"));
    try {
      await this.#parts.mounted.unmount();
    } finally {
      await this.#cleanup[Symbol.asyncDispose]();
    }
  }

  async #leave(): Promise<void> {
    this.#lastStatus = this.status();
    // In this order: a read that fails now would be answered, one that nobody answers is asked again.
    await this.#parts.mounted.leave();
    await this.#cleanup[Symbol.asyncDispose]();
  }
}

function describeKept({
  image,
  ...mount
}: Omit<KeptServedMount, "manifestDigest" | "treeDigest"> & { readonly image: MountableImage }): KeptServedMount {
  return { ...mount, manifestDigest: image.manifestDigest, treeDigest: digestOfTree(image.tree) };
}

/** For drivers whose mounts must not be reached before they are kept. */
function keeperOf(
  { keepFirst }: ServedMountOptions,
  describe: (driver: DriverName, mount: KeptMount) => KeptServedMount,
): DescriptorKeeper | undefined {
  const pid = keeperPid();
  if (pid === undefined || !keepFirst) return undefined;
  return { pid, keep: (driver, mount) => keepFirst(describe(driver, mount)) };
}

async function watchLayer({ layers }: MountableImage, slot: number): Promise<number> {
  const layer = layers[slot];
  if (!layer) throw new OcifsError("internal", `device slot ${slot}: there is no such layer`);
  return await layer.watch();
}

/** All files of layers are in one cache. */
function directoryOfLayers({ layers }: MountableImage): string | undefined {
  const path = layers.find(({ files }) => files !== undefined)?.files?.dataPath;
  return path === undefined ? undefined : dirname(path);
}

/** While a fill runs, what is read is no measure of what is wanted. */
function profilesOf({ profile, prefetch }: MountConfig): { profiles?: { record: boolean } } {
  return profile === "off" ? {} : { profiles: { record: prefetch === "none" } };
}

/** The kernel asks for inodes by number: another tree would answer with other files. */
function checkTree(image: MountableImage, kept: KeptServedMount): void {
  const got = digestOfTree(image.tree);
  if (got === kept.treeDigest) return;
  throw new OcifsError(
    "mismatch",
    `${kept.config.mountpoint}: the image's tree is ${got} by now, the mount shows ${kept.treeDigest}; unmount it and mount it again`,
  );
}

/** What serves an image, but for the mount itself. */
interface Serving {
  readonly image: MountableImage;
  readonly fill: BackgroundFill;
  readonly misses: MissHandler;
  readonly slow: SlowReads;
  readonly stopping: AbortController;
  /** Why reads fail or wait at present. */
  readonly problem: () => Problem | undefined;
}

interface Parts extends Serving {
  readonly mounted: Mounted;
}

function openParts(
  config: MountConfig,
  image: MountableImage,
  log: Log,
  stopping: AbortController,
  cleanup: Cleanup,
): Serving {
  const { signal } = stopping;
  const fill = cleanup.add(
    new BackgroundFill(image.layers, {
      mode: config.prefetch,
      bytesPerSecond: config.prefetchBytesPerSecond,
      log,
      signal,
    }),
  );
  // The fill is waited for at the end, whatever the end is.
  cleanup.defer(() => stopping.abort(new OcifsError("aborted", "mount: it has ended")));
  let problem: Problem | undefined;
  const slow = new SlowReads(config.mountpoint);
  const misses = new MissHandler(image.layers, {
    onError: config.onError,
    slow,
    log,
    signal,
    onMiss: (device, first, last) => image.profiles?.demand(device, first, last),
    onDemand: () => fill.demand(),
    onHealth: (now) => {
      problem = problemNow(problem, now);
    },
  });
  return { image, fill, misses, slow, stopping, problem: () => problem };
}

function describe(
  config: MountConfig,
  { image, mounted, fill, ...parts }: Parts,
  more: { readonly driverReason: string; readonly mountedAt: string },
): MountStatus {
  const stats = mounted.stats();
  const layers = image.layers.map((layer) => {
    const { problem, ...cache } = layer.stats();
    const { bytes, requests, retries } = layer.source.stats();
    return {
      problem,
      status: {
        digest: layer.source.digest,
        blobBytes: layer.source.sizeBytes,
        fetchedBytes: bytes,
        fetchRequests: requests,
        fetchRetries: retries,
        ...cache,
        fill: fill.statusOf(layer),
      },
    };
  });
  const problems = [parts.problem(), ...layers.map((layer) => layer.problem)].filter((each) => each !== undefined);
  const [problem] = problems;
  const sinceMs = Math.min(...problems.map(({ since }) => since.getTime()));
  return {
    pid: process.pid,
    keeperPid: keeperPid() ?? null,
    restarts: restartCount(),
    version,
    source: config.source,
    mountpoint: config.mountpoint,
    mountNamespace: mounted.namespace ?? null,
    manifestDigest: image.manifestDigest ?? null,
    driver: mounted.driver,
    driverReason: more.driverReason,
    state: problem ? "degraded" : "ready",
    problem: problem?.sentence ?? null,
    degradedSince: problem ? new Date(sinceMs).toISOString() : null,
    mountedAt: more.mountedAt,
    bytesFetched: layers.reduce((sum, { status }) => sum + status.fetchedBytes, 0),
    bytesTotal: layers.reduce((sum, { status }) => sum + status.blobBytes, 0),
    cacheSizeBytes: config.cacheSizeBytes ?? null,
    layers: layers.map((layer) => layer.status),
    requests: stats.requests,
    reads: stats.reads,
    readBytes: stats.readBytes,
    readMisses: stats.parked,
    hitRatio: stats.reads === 0 ? null : Math.max(0, stats.reads - stats.parked) / stats.reads,
    interrupted: stats.interrupted,
    errors: stats.errors,
    waitedBytes: stats.waitedBytes,
    hitTime: stats.hitTime,
    waitTime: stats.waitTime,
    readErrors: parts.misses.errors(),
    cacheDirectory: config.cacheDir,
    rssBytes: process.memoryUsage.rss(),
  };
}
