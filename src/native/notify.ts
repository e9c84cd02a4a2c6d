import { OcifsError } from "../base/errors.js";
import { addon, awaitNative, callNative } from "./addon.js";

const native = addon as unknown as {
  sendNotification(address: string, message: string, fds: readonly number[]): Promise<void>;
  closeOnExec(fd: number): void;
};

/** True when a service manager (systemd, or the keeper) wants to hear from this process. */
export function hasServiceManager(env: NodeJS.ProcessEnv = process.env): boolean {
  return env.NOTIFY_SOCKET !== undefined && env.NOTIFY_SOCKET !== "";
}

/**
 * Tells the service manager something, by the protocol of sd_notify(3): `message` is lines such as `READY=1`; `fds` go with it
 * (`FDSTORE=1`, `FDNAME=…`) and stay open here. Resolves with false when there is no manager, with true when it has taken
 * the message. Throws `io` when it cannot be reached, `unsupported` for an address that is no Unix socket.
 */
export async function notify(
  message: string,
  fds: readonly number[] = [],
  env: NodeJS.ProcessEnv = process.env,
): Promise<boolean> {
  const socket = env.NOTIFY_SOCKET;
  if (socket === undefined || socket === "") return false;
  if (!socket.startsWith("/") && !socket.startsWith("@")) {
    throw new OcifsError("unsupported", `NOTIFY_SOCKET=${socket}: want an absolute path or @NAME, a Unix socket`);
  }
  // An abstract name is written with @, and begins with NUL.
  const address = socket.startsWith("@") ? `\0${socket.slice(1)}` : socket;
  await awaitNative(() => native.sendNotification(address, message, fds));
  return true;
}

/** Half of the time within which the manager wants a sign of life (`WATCHDOG=1`), in ms; undefined when it does not watch this process. */
export function watchdogIntervalMs(env: NodeJS.ProcessEnv = process.env): number | undefined {
  const microseconds = Number(env.WATCHDOG_USEC);
  if (!Number.isSafeInteger(microseconds) || microseconds <= 0) return undefined;
  if (env.WATCHDOG_PID !== undefined && env.WATCHDOG_PID !== String(process.pid)) return undefined;
  // A timer above 2^31 ms fires at once.
  return Math.min(2 ** 31 - 1, Math.max(1, Math.floor(microseconds / 2000)));
}

/** The first descriptor of sd_listen_fds(3). */
const LISTEN_FDS_START = 3;

/** A descriptor that the service manager kept for this process, under the name it was given. */
export interface KeptDescriptor {
  readonly name: string;
  readonly fd: number;
}

/**
 * What the service manager kept, by sd_listen_fds(3); the caller's from now on. Taken out of `env`, so that a second call and
 * programs that this process starts find nothing.
 */
export function takeKeptDescriptors(env: NodeJS.ProcessEnv = process.env): KeptDescriptor[] {
  const { LISTEN_PID: pid, LISTEN_FDS: count = "0", LISTEN_FDNAMES: names = "" } = env;
  for (const key of ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]) delete env[key];
  if (pid !== String(process.pid)) return [];
  const list = names.split(":");
  return Array.from({ length: Number(count) }, (_, at) => {
    const fd = LISTEN_FDS_START + at;
    callNative(() => native.closeOnExec(fd));
    return { name: list[at] ?? "", fd };
  });
}
