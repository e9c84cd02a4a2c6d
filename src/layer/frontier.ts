import { OcifsError } from "../base/errors.js";

interface Waiter {
  readonly upTo: number;
  readonly settle: (error?: OcifsError) => void;
}

/** How far something has come, and who waits until it has come further. */
export class Frontier {
  readonly #waiters = new Set<Waiter>();
  #at = 0;
  #ended = false;

  pass(at: number): void {
    this.#at = Math.max(this.#at, at);
    for (const waiter of this.#waiters) if (waiter.upTo <= this.#at) waiter.settle();
  }

  /** It comes no further; whoever waits fails with `mismatch`. */
  end(): void {
    this.#ended = true;
    for (const waiter of this.#waiters) waiter.settle(ended());
  }

  /** Resolves once it has passed `upTo`; fails with `mismatch` when it ends before that, with `aborted` by the signal. */
  reached(upTo: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (upTo <= this.#at) return resolve();
      if (this.#ended) return reject(ended());
      const onAbort = () => waiter.settle(new OcifsError("aborted", "fill: cancelled", { cause: signal.reason }));
      const waiter: Waiter = {
        upTo,
        settle: (error) => {
          this.#waiters.delete(waiter);
          signal.removeEventListener("abort", onAbort);
          if (error) reject(error);
          else resolve();
        },
      };
      this.#waiters.add(waiter);
      signal.addEventListener("abort", onAbort, { once: true });
      if (signal.aborted) onAbort();
    });
  }
}

function ended(): OcifsError {
  return new OcifsError("mismatch", "fill: the rest of the blob does not come");
}
