import { statfs } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";
import type { BuildProgress } from "../image/build-indexes.js";
import { hasServiceManager, notify, watchdogIntervalMs } from "../native/notify.js";
import type { MountStatus } from "./status.js";

/** How long a start that goes on may take from its last sign of life; the manager's own limit is for one that does not. */
const EXTENSION_MICROSECONDS = 60_000_000;
/** Signs of life while indexes are built. */
const PROGRESS_INTERVAL_MS = 1000;

/**
 * Keeps the service manager informed about the mounts of this process (sd_notify(3)): progress, readiness, the watchdog, the end.
 * Without a manager it does nothing. Messages go out in order; one that cannot be sent is told to `warn`.
 */
export class ServiceNotifier implements AsyncDisposable {
  readonly #warn: (message: string) => void;
  readonly #env: NodeJS.ProcessEnv;
  #sent: Promise<unknown> = Promise.resolve();
  #watchdog: NodeJS.Timeout | undefined;
  #looking = false;
  #progressAt = 0;

  constructor(warn: (message: string) => void, env: NodeJS.ProcessEnv = process.env) {
    this.#warn = warn;
    this.#env = env;
  }

  /** Indexes are being built, which may take longer than a service may take to start. */
  progress({ doneBytes, totalBytes }: BuildProgress): void {
    const now = performance.now();
    if (!hasServiceManager(this.#env) || now - this.#progressAt < PROGRESS_INTERVAL_MS) return;
    this.#progressAt = now;
    const percent = totalBytes === 0 ? 0 : Math.floor((100 * doneBytes) / totalBytes);
    this.#send(`EXTEND_TIMEOUT_USEC=${EXTENSION_MICROSECONDS}\nSTATUS=Building the index: ${percent}%`);
  }

  /** All mounts answer. From here on the watchdog hears of it as long as those do that this process can see. */
  ready(mounts: () => readonly Pick<MountStatus, "mountpoint" | "mountNamespace">[]): void {
    const served = mounts();
    const what = served.length === 1 ? (served[0]?.mountpoint ?? "").replaceAll("\n", "?") : `${served.length} mounts`;
    const visible = () => mounts().flatMap((each) => (each.mountNamespace === null ? [each.mountpoint] : []));
    this.#send(`READY=1\nSTATUS=Serving ${what}`);
    const interval = watchdogIntervalMs(this.#env);
    if (interval === undefined || !hasServiceManager(this.#env)) return;
    this.#watchdog = setInterval(() => void this.#signOfLife(visible()), interval);
    this.#watchdog.unref();
  }

  stopping(): void {
    this.#stopWatchdog();
    this.#send("STOPPING=1");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopWatchdog();
    await this.#sent;
  }

  #stopWatchdog(): void {
    clearInterval(this.#watchdog);
    this.#watchdog = undefined;
  }

  /** The answer of the mounts themselves: a timer that fires says nothing about the threads that serve. */
  async #signOfLife(mountpoints: readonly string[]): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    try {
      for (const mountpoint of mountpoints) {
        await statfs(mountpoint).catch((cause: unknown) => {
          throw new OcifsError("io", `watchdog: ${mountpoint} does not answer: ${messageOf(cause)}`, { cause });
        });
      }
      if (this.#watchdog !== undefined) this.#send("WATCHDOG=1");
    } catch (error) {
      this.#warn(messageOf(error));
    } finally {
      this.#looking = false;
    }
  }

  #send(message: string): void {
    this.#sent = this.#sent
      .then(() => notify(message, [], this.#env))
      .catch((error: unknown) => this.#warn(messageOf(error)));
  }
}
