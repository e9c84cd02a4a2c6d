import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import { type Log, openLog } from "../base/log.js";
import { type Problem, problemNow } from "../base/problem.js";
import { version } from "../base/version.js";
import type { Mounted } from "../drivers/driver.js";
import { mountWithFuse } from "../drivers/fuse.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { type MountableImage, openMountableImage } from "../image/mountable-image.js";
import type { TagAnswer } from "../image/tag-answer.js";
import { BackgroundFill } from "./background-fill.js";
import { ControlServer } from "./control.js";
import { MissHandler } from "./miss-handler.js";
import type { MountConfig } from "./mount-config.js";
import { daemonLogPath, openRuntimeDirectory } from "./runtime-directory.js";
import type { MountStatus } from "./status.js";

export interface ReadyDetails {
  readonly driver: string;
  readonly warnings: readonly string[];
}

export interface RunMountOptions {
  /** The log goes to standard error. */
  readonly foreground?: boolean;
  /** See MetadataCache. */
  readonly tagAnswer?: Promise<TagAnswer | undefined>;
  /** Called while indexes that are missing are built. */
  readonly onBuildProgress?: (progress: BuildProgress) => void;
}

/**
 * Makes one mount and serves it until it is unmounted or a signal (SIGTERM, SIGINT) comes; then everything is closed.
 * Rejects when the mount cannot be made, or when the session breaks.
 */
export async function runMount(
  config: MountConfig,
  onReady: (details: ReadyDetails) => void,
  how: RunMountOptions = {},
): Promise<void> {
  await using cleanup = new Cleanup();
  const stopping = new AbortController();
  const stop = () => stopping.abort(new OcifsError("aborted", "mount: stopped by a signal"));
  for (const name of ["SIGTERM", "SIGINT"] as const) {
    process.on(name, stop);
    cleanup.defer(() => void process.removeListener(name, stop));
  }
  // A closed terminal is no reason to take a mount away.
  const onHangup = () => undefined;
  process.on("SIGHUP", onHangup);
  cleanup.defer(() => void process.removeListener("SIGHUP", onHangup));

  const runtime = await openRuntimeDirectory();
  const log = openDaemonLog(config, runtime, how.foreground ?? false, cleanup);
  const { driver: driverName, reason: driverReason } = chooseDriver(config.driver);
  const warnings: string[] = [];
  const warn = (message: string, fields?: Record<string, unknown>) => {
    if (warnings.length < 10) warnings.push(fields?.reason ? `${message}: ${fields.reason}` : message);
    log.warn(message, fields);
  };
  const image = cleanup.add(await openMountableImage({ ...config, ...how }, { ...log, warn }, stopping.signal));

  const fill = cleanup.add(
    new BackgroundFill(image.layers, {
      mode: config.prefetch,
      bytesPerSecond: config.prefetchBytesPerSecond,
      log,
      signal: stopping.signal,
    }),
  );
  // The fill is waited for at the end, whatever the end is.
  cleanup.defer(stop);
  let problem: Problem | undefined;
  const misses = new MissHandler(image.layers, {
    onError: config.onError,
    log,
    signal: stopping.signal,
    onDemand: () => fill.demand(),
    onHealth: (now) => {
      problem = problemNow(problem, now);
    },
  });
  const mount = await mountWithFuse({
    mountpoint: config.mountpoint,
    sourceName: config.source,
    tree: { image: image.tree, devices: image.layers.map((layer) => layer.store) },
    allowOther: config.allowOther,
    flags: config.flags,
    securityOptions: config.securityOptions,
    onMiss: (device, first, last, fileEndSpan) => void misses.handle(device, first, last, fileEndSpan),
  });
  cleanup.add(mount);
  const mountedAt = new Date().toISOString();
  const status = () => describe(config, image, mount, fill, { driverReason, mountedAt, problem });
  cleanup.add(await ControlServer.listen(join(runtime, `${process.pid}.sock`), { status }));
  fill.start();
  onReady({ driver: `${driverName}, ${driverReason}`, warnings });
  // Behind the answer, which should not wait for the log.
  log.info("mounted", { mountpoint: config.mountpoint, source: config.source, driver: driverName });

  const stopped = new Promise<void>((resolve) =>
    stopping.signal.addEventListener("abort", () => resolve(), { once: true }),
  );
  if (!stopping.signal.aborted) await Promise.race([mount.ended, stopped]);
  // Reads that wait for the network end now; the unmount would otherwise wait for them.
  stop();
  await mount.unmount();
  log.info("unmounted", { mountpoint: config.mountpoint });
}

/** In the background the log is a file beside the control socket, unless `log=` names one; it goes with a clean end. */
function openDaemonLog(config: MountConfig, runtime: string, foreground: boolean, cleanup: Cleanup): Log {
  if (config.log.path !== undefined) return openLog(config.log.level, config.log.path);
  if (foreground) return openLog(config.log.level, 2);
  const path = daemonLogPath(runtime, process.pid);
  cleanup.defer(() => rm(path, { force: true }));
  return openLog(config.log.level, path);
}

function chooseDriver(wanted: MountConfig["driver"]): { driver: string; reason: string } {
  if (wanted === "auto") return { driver: "fuse", reason: "the driver of this version" };
  if (wanted === "fuse") return { driver: "fuse", reason: "asked for" };
  throw new OcifsError(
    "unsupported",
    `driver=${wanted}: this version of ocifs has the driver "fuse" only; leave driver= out`,
  );
}

function describe(
  config: MountConfig,
  image: MountableImage,
  mount: Mounted,
  fill: BackgroundFill,
  more: { driverReason: string; mountedAt: string; problem: Problem | undefined },
): MountStatus {
  const stats = mount.stats();
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
  const problems = [more.problem, ...layers.map((layer) => layer.problem)].filter((each) => each !== undefined);
  const [problem] = problems;
  const sinceMs = Math.min(...problems.map(({ since }) => since.getTime()));
  return {
    pid: process.pid,
    version,
    source: config.source,
    mountpoint: config.mountpoint,
    manifestDigest: image.manifestDigest ?? null,
    driver: mount.driver,
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
    rssBytes: process.memoryUsage.rss(),
  };
}
