import { limits } from "../base/limits.js";

/** Within this the kernel asks again, also on a busy machine. */
const FRESH_MS = 100;

interface Failure {
  readonly device: number;
  readonly first: number;
  readonly last: number;
  readonly errno: number;
  readonly untilMs: number;
}

/**
 * Reads that have just failed after a long wait. When a request that reads ahead fails, the kernel asks once more, for the page
 * that the program wants, before it gives the program an error. That second request is answered as the first was: otherwise
 * one read(2) would wait twice as long as it may. Each failure answers one request.
 */
export class FreshFailures {
  readonly #now: () => number;
  #failures: Failure[] = [];

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  add(device: number, first: number, last: number, errno: number): void {
    this.#failures.push({ device, first, last, errno, untilMs: this.#now() + FRESH_MS });
    if (this.#failures.length > limits.freshFailures) this.#failures.shift();
  }

  /** The errno for a request that repeats one of them; that one is used up. */
  take(device: number, first: number, last: number): number | undefined {
    if (this.#failures.length === 0) return undefined;
    const now = this.#now();
    this.#failures = this.#failures.filter(({ untilMs }) => now < untilMs);
    const at = this.#failures.findIndex((f) => f.device === device && f.first <= last && first <= f.last);
    return at < 0 ? undefined : this.#failures.splice(at, 1)[0]?.errno;
  }
}
