import { OcifsError } from "../base/errors.js";

/** Time and chance, replaceable in tests. */
export interface Clock {
  /** Milliseconds since the epoch. */
  nowMs(): number;
  /** Resolves after `ms`; rejects with `aborted` as soon as the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** In [0, 1). */
  random(): number;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      const fail = () => reject(new OcifsError("aborted", "waiting to retry: cancelled", { cause: signal?.reason }));
      if (signal?.aborted) return fail();
      const onAbort = () => {
        clearTimeout(timer);
        fail();
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", onAbort);
        resolve();
      }, ms);
      signal?.addEventListener("abort", onAbort, { once: true });
    }),
  random: () => Math.random(),
};
