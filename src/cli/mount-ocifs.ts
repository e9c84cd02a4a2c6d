#!/usr/bin/env node
import { version } from "../base/version.js";
import type { ReadyDetails } from "../daemon/daemon.js";
import { readKeptMounts } from "../daemon/kept-mounts.js";
import { launchDaemon } from "../daemon/launch.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { takeKeptDescriptors } from "../native/notify.js";
import { BuildDisplay } from "./build-display.js";
import { describeError } from "./describe-error.js";
import { mountExitCode, mountExitCodes } from "./exit-codes.js";
import { detectCaller } from "./mount-caller.js";
import { toMountConfig } from "./mount-config.js";
import { formatMountHelp, parseMountCommand } from "./mount-grammar.js";
import { findMountpoint } from "./mountpoint.js";
import { remount } from "./remount.js";

async function main(argv: readonly string[], signal: AbortSignal): Promise<void> {
  const command = parseMountCommand(argv, await detectCaller());
  if (command.kind === "help") {
    process.stdout.write(formatMountHelp());
    return;
  }
  if (command.kind === "version") {
    process.stdout.write(`mount.ocifs ${version}\n`);
    return;
  }
  const { request } = command;
  const mountpoint = await findMountpoint(request.mountpoint);
  if (request.remount) {
    if (!request.fake) await remount(mountpoint, request.flags);
    return;
  }
  // A process that stays must not show for good what stood in its arguments.
  if (request.options.password !== undefined) process.title = "mount.ocifs";
  const config = await toMountConfig(request, mountpoint);
  if (request.verbose && request.toleratedWords.length > 0) {
    process.stderr.write(`mount.ocifs: passed over: ${request.toleratedWords.join(", ")}\n`);
  }
  if (request.fake) return;
  using display = new BuildDisplay("mount.ocifs");
  const onBuildProgress = (progress: BuildProgress) => display.update(progress);
  if (request.options.foreground) {
    const { runKeptMounts, runMount } = await import("../daemon/daemon.js");
    // A service that systemd has started again, with what its file descriptor store has kept.
    const found = readKeptMounts(takeKeptDescriptors());
    if (found.length > 0) {
      await runKeptMounts(found, { foreground: true });
      return;
    }
    const onReady = ({ driver }: ReadyDetails) => {
      display.finish();
      process.stderr.write(`mount.ocifs: ${config.mountpoint} is ready (${driver})\n`);
    };
    await runMount(config, onReady, { foreground: true, onBuildProgress });
    return;
  }
  const { pid, driver, warnings } = await launchDaemon(config, signal, onBuildProgress);
  display.finish();
  for (const warning of warnings) process.stderr.write(`mount.ocifs: warning: ${warning}\n`);
  if (request.verbose) process.stderr.write(`mount.ocifs: ${config.mountpoint} is ready (${driver}, daemon ${pid})\n`);
}

const interruption = new AbortController();
process.once("SIGINT", () => interruption.abort());
process.once("SIGTERM", () => interruption.abort());
try {
  await main(process.argv.slice(2), interruption.signal);
  process.exitCode = mountExitCodes.success;
} catch (error) {
  process.stderr.write(`mount.ocifs: ${describeError(error, process.env)}\n`);
  process.exitCode = mountExitCode(error);
}
