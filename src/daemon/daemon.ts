import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../base/cleanup.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { type Log, openLog } from "../base/log.js";
import { version } from "../base/version.js";
import type { BuildProgress } from "../image/build-indexes.js";
import type { TagAnswer } from "../image/tag-answer.js";
import { ControlServer, type Method } from "./control.js";
import { handoverSocketPath } from "./handover.js";
import { takeHandovers } from "./handover-server.js";
import {
  type DaemonEnd,
  instanceId,
  isRestartedByManager,
  keeperPid,
  restartCount,
  SHARED,
  stopsAtOnce,
} from "./keeper.js";
import type { FoundMount } from "./kept-mounts.js";
import type { MetricsAddress } from "./metrics/address.js";
import type { MountConfig } from "./mount-config.js";
import { MountTable } from "./mount-table.js";
import { daemonLogPath, openRuntimeDirectory } from "./runtime-directory.js";
import { ServiceNotifier } from "./service-notifier.js";
import { adoptAll } from "./shared-daemon.js";
import type { ReadTrace } from "./slow-reads.js";
import type { DaemonStatus } from "./status.js";
import { Upgrade } from "./upgrade.js";

/** Of all mounts of a daemon: a few hundred bytes each. */
const SLOW_READS = 1000;

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
export function runMount(
  config: MountConfig,
  onReady: (details: ReadyDetails) => void,
  how: RunMountOptions = {},
): Promise<DaemonEnd> {
  return runDaemon(
    { log: config.log, metrics: config.metrics, foreground: how.foreground ?? false },
    async ({ table, tellManager }) => {
      const onBuildProgress = (progress: BuildProgress) => {
        how.onBuildProgress?.(progress);
        tellManager(progress);
      };
      const mount = await table.open(config, { ...how, onBuildProgress });
      return () => onReady({ driver: `${mount.driver}, ${mount.driverReason}`, warnings: mount.warnings });
    },
  );
}

/** Goes on with the mounts of the daemon before this one. Rejects when one cannot be gone on with now, but may be later. */
export function runKeptMounts(
  found: readonly FoundMount[],
  how: { readonly foreground?: boolean } = {},
): Promise<DaemonEnd> {
  const [config] = found.flatMap((each) => ("kept" in each ? [each.kept.config] : []));
  const { log = { level: "info" }, metrics } = config ?? {};
  return runDaemon({ log, metrics, foreground: how.foreground ?? false }, async ({ table, stop }) => {
    await Promise.all(found.map((each) => table.adopt(each)));
    if (stopsAtOnce()) stop();
    return () => undefined;
  });
}

/** Options of the shared daemon, as it passes them on to the one that comes after it. */
export interface SharedDaemonOptions {
  readonly log: MountConfig["log"];
  readonly metrics?: MetricsAddress;
}

/**
 * Serves the mounts that helpers hand over, and those in `found`, of the daemon before it, until a signal comes; then all are unmounted.
 * The log goes to standard error, unless the options name a file. `busy` when this user has such a daemon already.
 */
export function runSharedDaemon(options: SharedDaemonOptions, found: readonly FoundMount[]): Promise<DaemonEnd> {
  return runDaemon({ ...options, foreground: true, shared: true }, async ({ table, stop, log, signal }) => {
    await adoptAll(table, found, log, signal);
    if (stopsAtOnce()) stop();
    return () => log.info("the daemon takes mounts");
  });
}

interface DaemonOptions {
  readonly log: MountConfig["log"];
  /** The log goes to standard error. */
  readonly foreground: boolean;
  readonly metrics?: MetricsAddress | undefined;
  /** Takes mounts from helpers, and does not end with its last mount. */
  readonly shared?: boolean;
}

/** What a start may use. */
interface Starting {
  readonly table: MountTable;
  readonly log: Log;
  /** Ends the daemon, as a signal does. */
  readonly stop: () => void;
  /** Fires then. */
  readonly signal: AbortSignal;
  readonly tellManager: (progress: BuildProgress) => void;
}

/** Resolves to what is to be called once the daemon answers: whoever hears of a mount may ask for its status at once. */
type Start = (starting: Starting) => Promise<() => void>;

async function runDaemon(o: DaemonOptions, start: Start): Promise<DaemonEnd> {
  const shared = o.shared ?? false;
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
  const log = openDaemonLog(o, runtime, cleanup);
  const { signal } = stopping;
  const table = cleanup.add(new MountTable(log, signal));
  const upgrade = new Upgrade({ restarts: shared && isRestartedByManager(), checkKept: () => table.checkKept() });
  const status = (): DaemonStatus => ({
    pid: process.pid,
    version,
    program: process.argv,
    keeperPid: keeperPid() ?? null,
    shared,
    mounts: table.statuses(),
    restarts: restartCount(),
    rssBytes: process.memoryUsage.rss(),
  });
  const methods: Record<string, Method> = {
    status,
    slowReads: () => slowestOf(table.slowReads()),
    upgrade: (params) => upgrade.prepare(params),
  };
  const service = cleanup.add(
    new ServiceNotifier((reason) => log.warn("the service manager cannot be told", { reason })),
  );
  signal.addEventListener("abort", () => service.stopping(), { once: true });
  if (o.metrics) await offerMetrics(o.metrics, status, log, cleanup);
  const handovers = shared ? cleanup.add(await takeHandovers(handoverSocketPath(runtime), table, log)) : undefined;
  const tellManager = (progress: BuildProgress) => service.progress(progress);
  const onAnswering = await start({ table, log, stop, signal, tellManager });
  const name = shared ? SHARED : instanceId();
  cleanup.add(await ControlServer.listen(join(runtime, `${name}.sock`), methods));
  onAnswering();
  service.ready(() => table.statuses());
  const stopped = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
  await Promise.race([...(shared ? [] : [table.empty()]), stopped, upgrade.wanted]);
  // Before the mounts are left: one that is being handed over now goes back to its helper.
  await handovers?.[Symbol.asyncDispose]();
  if (!upgrade.isWanted || signal.aborted || (table.size === 0 && !shared)) return "done";
  await table.leave();
  return "upgrade";
}

/** As many as fit into one message. */
function slowestOf(traces: readonly ReadTrace[]): ReadTrace[] {
  return [...traces].sort((a, b) => b.totalMs - a.totalMs).slice(0, SLOW_READS);
}

/** A daemon that was started again serves its mounts in any case. */
async function offerMetrics(at: MetricsAddress, status: () => DaemonStatus, log: Log, cleanup: Cleanup): Promise<void> {
  // Most daemons offer none.
  const { CacheSizes, formatMetrics, MetricsServer } = await import("./metrics/index.js");
  const sizes = new CacheSizes();
  const metrics = () => formatMetrics([status()], (directory) => sizes.of(directory));
  try {
    cleanup.add(await MetricsServer.listen(at, metrics, log));
  } catch (error) {
    if (restartCount() === 0) throw error;
    log.warn("metrics cannot be offered", { reason: messageOf(error) });
  }
}

/** In the background the log is a file beside the control socket, unless `log=` names one; it goes with a clean end. */
function openDaemonLog({ log: logging, foreground }: DaemonOptions, runtime: string, cleanup: Cleanup): Log {
  if (logging.path !== undefined) return openLog(logging.level, logging.path);
  if (foreground) return openLog(logging.level, 2);
  const path = daemonLogPath(runtime, instanceId());
  cleanup.defer(() => rm(path, { force: true }));
  return openLog(logging.level, path);
}
