import { RegistryError } from "./registry-error.js";

/** For the attempt that begins at the very end of the time for retries; a read fails within a second of its timeout. */
const GRACE_MS = 500;

/** When bytes last arrived from a server, whoever asked for them; milliseconds of `performance.now()`. */
export interface Activity {
  lastMs: number;
}

/**
 * How long one fetch goes on without progress, whatever its attempts are doing: its signal fires when nothing has arrived for
 * `timeoutMs` and a little. Timeouts of a single attempt do not add up beyond that.
 */
export class Patience implements Disposable {
  readonly #controller = new AbortController();
  readonly #timeoutMs: number;
  readonly #what: string;
  readonly #activity: Activity;
  #deadlineMs: number;
  #timer: NodeJS.Timeout | undefined;
  #pausedAtMs: number | undefined;
  #queued = false;
  #lastFailure: unknown;

  /** `waitingSinceMs`: when the wait began, of `performance.now()`; now, if it is not said. */
  constructor(timeoutMs: number, what: string, activity: Activity, waitingSinceMs = performance.now()) {
    this.#timeoutMs = timeoutMs;
    this.#what = what;
    this.#activity = activity;
    this.#deadlineMs = this.#deadlineAfter(waitingSinceMs);
    this.#arm();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** For the message, should there be no other. */
  failed(error: unknown): void {
    this.#lastFailure = error;
  }

  progress(): void {
    const now = performance.now();
    this.#activity.lastMs = now;
    this.#deadlineMs = this.#deadlineAfter(now);
  }

  /** What passes until `resume` is not the server's time. */
  pause(): void {
    clearTimeout(this.#timer);
    this.#pausedAtMs = performance.now();
  }

  resume(): void {
    if (this.#pausedAtMs === undefined) return;
    this.#deadlineMs += performance.now() - this.#pausedAtMs;
    this.#pausedAtMs = undefined;
    this.#arm();
  }

  /** While a fetch waits for others to end, bytes that they get are as good as its own. */
  async queue<T>(admission: Promise<T>): Promise<T> {
    this.#queued = true;
    try {
      return await admission;
    } finally {
      this.#queued = false;
      this.#countOthers();
    }
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #deadlineAfter(ms: number): number {
    return ms + this.#timeoutMs + GRACE_MS;
  }

  #countOthers(): void {
    this.#deadlineMs = Math.max(this.#deadlineMs, this.#deadlineAfter(this.#activity.lastMs));
  }

  /** One timer for all of it: the deadline moves far more often than it is reached. */
  #arm(): void {
    clearTimeout(this.#timer);
    if (this.#controller.signal.aborted) return;
    this.#timer = setTimeout(() => this.#look(), Math.max(1, this.#deadlineMs - performance.now()));
  }

  #look(): void {
    if (this.#queued) this.#countOthers();
    if (performance.now() < this.#deadlineMs) {
      this.#arm();
      return;
    }
    const message = `${this.#what}: nothing arrived for ${this.#timeoutMs} ms`;
    const last = this.#lastFailure instanceof Error ? `; last failure: ${this.#lastFailure.message}` : "";
    this.#controller.abort(new RegistryError("timeout", `${message}${last}`, { cause: this.#lastFailure }));
  }
}
