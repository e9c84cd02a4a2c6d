#!/usr/bin/env node
import { realpath, stat, statfs } from "node:fs/promises";
import { resolve } from "node:path";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readBounded } from "../base/read-bounded.js";
import { version } from "../base/version.js";
import { defaultCacheDirectory } from "../cache/default-directory.js";
import type { ReadyDetails } from "../daemon/daemon.js";
import { launchDaemon } from "../daemon/launch.js";
import type { MountConfig } from "../daemon/mount-config.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { BuildDisplay } from "./build-display.js";
import { describeError } from "./describe-error.js";
import { mountExitCode, mountExitCodes } from "./exit-codes.js";
import { detectCaller } from "./mount-caller.js";
import { formatMountHelp, type MountRequest, parseMountCommand } from "./mount-grammar.js";

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
  // A process that stays must not show for good what stood in its arguments.
  if (request.options.password !== undefined) process.title = "mount.ocifs";
  const config = await toMountConfig(request, await findMountpoint(request.mountpoint));
  if (request.verbose && request.toleratedWords.length > 0) {
    process.stderr.write(`mount.ocifs: passed over: ${request.toleratedWords.join(", ")}\n`);
  }
  if (request.fake) return;
  using display = new BuildDisplay("mount.ocifs");
  const onBuildProgress = (progress: BuildProgress) => display.update(progress);
  if (request.options.foreground) {
    const { runMount } = await import("../daemon/daemon.js");
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

async function toMountConfig(request: MountRequest, mountpoint: string): Promise<MountConfig> {
  const o = request.options;
  const password = o.passwordFile === undefined ? o.password : await readPasswordFile(o.passwordFile);
  return {
    source: absoluteSource(request.source),
    mountpoint,
    ...(o.layer === undefined ? {} : { layer: o.layer }),
    ...(o.blob === undefined ? {} : { blob: o.blob }),
    ...(o.platform === undefined ? {} : { platform: o.platform }),
    ...(o.username === undefined ? {} : { username: o.username }),
    ...(password === undefined ? {} : { password }),
    insecure: o.insecure,
    ...(o.tarindex === undefined ? {} : { tarindex: resolve(o.tarindex) }),
    ...(o.zinfo === undefined ? {} : { zinfo: resolve(o.zinfo) }),
    driver: o.driver,
    cacheDir: resolve(o.cacheDir ?? defaultCacheDirectory()),
    ...(o.cacheSizeBytes === undefined ? {} : { cacheSizeBytes: o.cacheSizeBytes }),
    onError: o.onError,
    timeoutMs: o.timeoutMs,
    prefetch: o.prefetch,
    ...(o.prefetchBytesPerSecond === undefined ? {} : { prefetchBytesPerSecond: o.prefetchBytesPerSecond }),
    verify: o.verify,
    allowOther: o.allowOther,
    flags: request.flags,
    securityOptions: request.securityOptions,
    log: o.log.path === undefined ? { level: o.log.level } : { level: o.log.level, path: resolve(o.log.path) },
  };
}

/** Daemons work in "/": a path relative to here must not become one relative to there. */
function absoluteSource(source: string): string {
  const prefix = ["file:", "oci:"].find((p) => source.startsWith(p));
  if (prefix === undefined) return source;
  const rest = source.slice(prefix.length);
  return rest.startsWith("/") || rest === "" ? source : `${prefix}${process.cwd()}/${rest}`;
}

async function readPasswordFile(path: string): Promise<string> {
  const what = `oci.password_file ${path}, of which the first line is the password`;
  const content = await readBounded(path, limits.passwordBytes, what).catch((cause: Error) => {
    throw cause instanceof OcifsError ? cause : new OcifsError("io", `oci.password_file: ${cause.message}`, { cause });
  });
  const [line = ""] = content.toString("utf8").split(/\r?\n/, 1);
  if (line === "") throw new OcifsError("usage", `oci.password_file ${path}: its first line is empty`);
  return line;
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
