import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import { type Log, openLog } from "../base/log.js";
import type { BuildProgress } from "../image/build-indexes.js";
import type { TagAnswer } from "../image/tag-answer.js";
import { ControlServer } from "./control.js";
import type { MountConfig } from "./mount-config.js";
import { daemonLogPath, openRuntimeDirectory } from "./runtime-directory.js";
import { ServedMount } from "./served-mount.js";

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
  const { signal } = stopping;
  const mount = cleanup.add(await ServedMount.open(config, { ...how, log, signal }));
  cleanup.add(await ControlServer.listen(join(runtime, `${process.pid}.sock`), { status: () => mount.status() }));
  onReady({ driver: `${mount.driver}, ${mount.driverReason}`, warnings: mount.warnings });
  // Behind the answer, which should not wait for the log.
  log.info("mounted", {
    mountpoint: config.mountpoint,
    source: config.source,
    driver: mount.driver,
    reason: mount.driverReason,
  });

  const stopped = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
  if (!signal.aborted) await Promise.race([mount.ended, stopped]);
  await mount[Symbol.asyncDispose]();
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
