import { setMaxListeners } from "node:events";
import { OcifsError } from "../base/errors.js";

/**
 * A signal that fires when any of the given ones does. Dispose it when the operation ends: unlike AbortSignal.any it then
 * leaves nothing behind on a signal that lives as long as a mount.
 */
export class LinkedSignal implements Disposable {
  readonly #controller = new AbortController();
  readonly #undo: (() => void)[] = [];

  constructor(...sources: (AbortSignal | undefined)[]) {
    for (const source of sources) {
      if (source === undefined) continue;
      if (source.aborted) {
        this.#controller.abort(source.reason);
        continue;
      }
      // One signal of a mount serves all its reads at once; Node warns from 11 listeners on.
      setMaxListeners(0, source);
      const forward = () => this.#controller.abort(source.reason);
      source.addEventListener("abort", forward, { once: true });
      this.#undo.push(() => source.removeEventListener("abort", forward));
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  [Symbol.dispose](): void {
    for (const undo of this.#undo.splice(0)) undo();
  }
}

/**
 * Waits for a promise that others share: when the caller's signal fires, this caller stops waiting with `aborted` and the
 * shared work goes on.
 */
export async function waitShared<T>(shared: Promise<T>, operation: string, signal?: AbortSignal): Promise<T> {
  if (signal === undefined) return await shared;
  let onAbort: (() => void) | undefined;
  const cancelled = new Promise<never>((_, reject) => {
    onAbort = () => reject(new OcifsError("aborted", `${operation}: cancelled`, { cause: signal.reason }));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([shared, cancelled]);
  } finally {
    if (onAbort !== undefined) signal.removeEventListener("abort", onAbort);
  }
}
