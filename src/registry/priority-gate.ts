import { OcifsError } from "../base/errors.js";

export type Priority = "demand" | "prefetch";

interface Waiter {
  readonly admit: () => void;
}

/**
 * Lets at most `size` transfers run at once. Waiting demand goes before waiting prefetch, first come first served within
 * each; prefetch may hold all places but `reserved`, so that demand finds one free however long prefetches take.
 */
export class PriorityGate {
  readonly #size: number;
  readonly #prefetchSize: number;
  readonly #waiting: Record<Priority, Set<Waiter>> = { demand: new Set(), prefetch: new Set() };
  #held = 0;
  #heldByPrefetch = 0;

  constructor(size: number, reserved = Math.min(2, size - 1)) {
    this.#size = size;
    this.#prefetchSize = size - reserved;
  }

  /** Resolves with the place; dispose it to give it back. Throws `aborted` when the signal fires while waiting. */
  async enter(priority: Priority, signal: AbortSignal): Promise<Disposable> {
    if (!this.#mayEnter(priority) || this.#waiting[priority].size > 0) await this.#wait(priority, signal);
    else this.#take(priority);
    let open = true;
    return {
      [Symbol.dispose]: () => {
        if (!open) return;
        open = false;
        this.#leave(priority);
      },
    };
  }

  #mayEnter(priority: Priority): boolean {
    if (this.#held >= this.#size) return false;
    return priority === "demand" || this.#heldByPrefetch < this.#prefetchSize;
  }

  #take(priority: Priority): void {
    this.#held += 1;
    if (priority === "prefetch") this.#heldByPrefetch += 1;
  }

  #leave(priority: Priority): void {
    this.#held -= 1;
    if (priority === "prefetch") this.#heldByPrefetch -= 1;
    this.#admitNext();
  }

  #admitNext(): void {
    for (const priority of ["demand", "prefetch"] as const) {
      const [next] = this.#waiting[priority];
      if (next === undefined || !this.#mayEnter(priority)) continue;
      this.#waiting[priority].delete(next);
      this.#take(priority);
      next.admit();
      return;
    }
  }

  #wait(priority: Priority, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const cancel = () => {
        this.#waiting[priority].delete(waiter);
        reject(new OcifsError("aborted", "waiting for a connection: cancelled", { cause: signal.reason }));
      };
      const waiter: Waiter = {
        admit: () => {
          signal.removeEventListener("abort", cancel);
          resolve();
        },
      };
      if (signal.aborted) return cancel();
      this.#waiting[priority].add(waiter);
      signal.addEventListener("abort", cancel, { once: true });
    });
  }
}
