import { OcifsError } from "../base/errors.js";
import { addon, awaitNative } from "./addon.js";

const native = addon as unknown as {
  sendNotification(address: string, message: string, fds: readonly number[]): Promise<void>;
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
