#!/usr/bin/env node
import { realpath, stat, statfs } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";
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

/** The directory's real path: unmounting does not follow links, and /proc/mounts shows none. */
async function findMountpoint(path: string): Promise<string> {
  try {
    const info = await stat(path);
    if (!info.isDirectory()) throw new OcifsError("usage", `mountpoint ${path}: it is not a directory`);
    // The kernel still knows the root's attributes when a mount's daemon is dead, but this it has to ask.
    await statfs(path);
    return await realpath(path);
  } catch (cause) {
    if (cause instanceof OcifsError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new OcifsError("usage", `mountpoint ${path}: it does not exist; make it with mkdir`);
    if (code === "ENOTCONN") {
      throw new OcifsError("busy", `mountpoint ${path}: a mount is there whose daemon has died; unmount it first`);
    }
    throw new OcifsError("io", `mountpoint ${path}: ${messageOf(cause)}`, { cause });
  }
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
