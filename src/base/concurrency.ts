/**
 * Runs `work` for every item, at most `limit` at a time, and returns the results in the items' order. The first failure
 * aborts the signal that the others were given, and is thrown once all of them have ended: nothing goes on behind the
 * caller's back. `signal` aborts them as well.
 */
export async function mapConcurrently<T, R>(
  items: readonly T[],
  limit: number,
  work: (item: T, signal: AbortSignal) => Promise<R>,
  signal?: AbortSignal,
): Promise<R[]> {
  const stop = new AbortController();
  const forward = () => stop.abort(signal?.reason);
  if (signal?.aborted) forward();
  signal?.addEventListener("abort", forward, { once: true });
  const results = new Map<number, R>();
  let failure: { readonly error: unknown } | undefined;
  let next = 0;
  const worker = async () => {
    while (next < items.length && failure === undefined) {
      const at = next++;
      try {
        results.set(at, await work(items[at] as T, stop.signal));
      } catch (error) {
        failure ??= { error };
        stop.abort(error);
      }
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker));
  } finally {
    signal?.removeEventListener("abort", forward);
  }
  if (failure !== undefined) throw failure.error;
  return items.map((_, at) => results.get(at) as R);
}
