#!/usr/bin/env node
import { OcifsError } from "../base/errors.js";
import { version } from "../base/version.js";
import type { ReadyDetails } from "../daemon/daemon.js";
import { exitCodeOf } from "../daemon/keeper.js";
import { readKeptMounts } from "../daemon/kept-mounts.js";
import type { MountConfig } from "../daemon/mount-config.js";
import { startMount } from "../daemon/start-mount.js";
import type { MountNamespace } from "../drivers/driver.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { hasServiceManager, takeKeptDescriptors } from "../native/notify.js";
import { BuildDisplay } from "./build-display.js";
import { describeError } from "./describe-error.js";
import { mountExitCode, mountExitCodes } from "./exit-codes.js";
import { detectCaller } from "./mount-caller.js";
import { toMountConfig } from "./mount-config.js";
import { formatMountHelp, type MountRequest, parseMountCommand } from "./mount-grammar.js";
import { findMountpoint, openMountNamespace } from "./mountpoint.js";
import { remount } from "./remount.js";

async function main(argv: readonly string[], signal: AbortSignal): Promise<number> {
  const command = parseMountCommand(argv, await detectCaller());
  if (command.kind === "help") {
    process.stdout.write(formatMountHelp());
    return mountExitCodes.success;
  }
  if (command.kind === "version") {
    process.stdout.write(`mount.ocifs ${version}\n`);
    return mountExitCodes.success;
  }
  const { request } = command;
  if (request.options.foreground && !request.fake && !request.remount) return await serve(request);
  const namespace = request.namespace === undefined ? undefined : await openMountNamespace(request.namespace);
  const mountpoint = await findMountpoint(request.mountpoint, namespace ? { namespace } : {});
  if (request.remount) {
    if (namespace)
      throw new OcifsError("unsupported", "remount: it works in the own mount namespace only; leave -N out");
    if (!request.fake) await remount(mountpoint, request.flags);
    return mountExitCodes.success;
  }
  const config = await configure(request, mountpoint, namespace);
  if (request.fake) return mountExitCodes.success;
  using display = new BuildDisplay("mount.ocifs");
  const onBuildProgress = (progress: BuildProgress) => display.update(progress);
  const { pid, driver, warnings } = await startMount(config, request.options.daemon, signal, onBuildProgress);
  display.finish();
  for (const warning of warnings) process.stderr.write(`mount.ocifs: warning: ${warning}\n`);
  if (request.verbose) process.stderr.write(`mount.ocifs: ${config.mountpoint} is ready (${driver}, daemon ${pid})\n`);
  return mountExitCodes.success;
}

/** Serves the mount in this process, to its end. */
async function serve(request: MountRequest): Promise<number> {
  const { runKeptMounts, runMount } = await import("../daemon/daemon.js");
  // A service that was started again, with what its manager has kept. The mountpoint must not be touched: this process is to answer.
  const found = readKeptMounts(takeKeptDescriptors());
  if (found.length > 0) return exitCodeOf(await runKeptMounts(found, { foreground: true }));
  const namespace = request.namespace === undefined ? undefined : await openMountNamespace(request.namespace);
  // What a service left behind that died with all that was kept would be in the way of the next one.
  const where = { replaceDead: hasServiceManager(), ...(namespace ? { namespace } : {}) };
  const config = await configure(request, await findMountpoint(request.mountpoint, where), namespace);
  using display = new BuildDisplay("mount.ocifs");
  const onBuildProgress = (progress: BuildProgress) => display.update(progress);
  const onReady = ({ driver }: ReadyDetails) => {
    display.finish();
    process.stderr.write(`mount.ocifs: ${config.mountpoint} is ready (${driver})\n`);
  };
  return exitCodeOf(await runMount(config, onReady, { foreground: true, onBuildProgress }));
}

async function configure(
  request: MountRequest,
  mountpoint: string,
  namespace: MountNamespace | undefined,
): Promise<MountConfig> {
  // A process that stays must not show for good what stood in its arguments.
  if (request.options.password !== undefined) process.title = "mount.ocifs";
  if (request.verbose && request.toleratedWords.length > 0) {
    process.stderr.write(`mount.ocifs: passed over: ${request.toleratedWords.join(", ")}\n`);
  }
  return await toMountConfig(request, mountpoint, namespace);
}

const interruption = new AbortController();
process.once("SIGINT", () => interruption.abort());
process.once("SIGTERM", () => interruption.abort());
try {
  process.exitCode = await main(process.argv.slice(2), interruption.signal);
} catch (error) {
  process.stderr.write(`mount.ocifs: ${describeError(error, process.env)}\n`);
  process.exitCode = mountExitCode(error);
}
