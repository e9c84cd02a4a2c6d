import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { OcifsError } from "../base/errors.js";

/** Exit code that asks the keeper to start the daemon again (native/keeper/keeper.c, EX_TEMPFAIL). */
export const RESTART_EXIT_CODE = 75;

/** Why a daemon has come to its end: its mounts are gone, or it makes room for its next version. */
export type DaemonEnd = "done" | "upgrade";

/** What the daemon's process ends with. */
export function exitCodeOf(end: DaemonEnd): number {
  return end === "upgrade" ? RESTART_EXIT_CODE : 0;
}

/** dist/src/daemon/keeper.js → the package's root. */
const packageRoot = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..");

/** The program that starts daemons and starts them again. */
export function keeperProgram(): string {
  const path = join(packageRoot, "native", "build", "Release", "ocifs-keeper");
  if (existsSync(path)) return path;
  throw new OcifsError("io", `keeper: there is no ${path}; build it with scripts/build-native`);
}

/** What is started as a daemon: program and arguments. */
export function daemonProgram(): [string, ...string[]] {
  return [process.execPath, fileURLToPath(new URL("./main.js", import.meta.url))];
}

/** First argument of the daemon program for the shared daemon; the second is its options as JSON. */
export const SHARED = "shared";

/** Of the keeper that started this process; undefined when none did. */
export function keeperPid(): number | undefined {
  const pid = Number(process.env.OCIFS_KEEPER_PID);
  // An environment that was inherited further, or the keeper of a daemon that this process is not.
  return pid > 0 && pid === process.ppid ? pid : undefined;
}

/** True when a service manager of another kind starts this process again with the descriptors it keeps, as our units say. */
export function isRestartedByManager(env: NodeJS.ProcessEnv = process.env): boolean {
  return env.OCIFS_FDSTORE === "1" && keeperPid() === undefined;
}

/** Names this daemon's socket and log: the same after a restart. */
export function instanceId(): number {
  return keeperPid() ?? process.pid;
}

/** How often the keeper had to start the daemon again. */
export function restartCount(): number {
  return keeperPid() === undefined ? 0 : Number(process.env.OCIFS_RESTARTS ?? 0);
}

/** The daemon before this one was to end and died over it: the mounts are taken over to be unmounted. */
export function stopsAtOnce(): boolean {
  return keeperPid() !== undefined && process.env.OCIFS_STOP === "1";
}
