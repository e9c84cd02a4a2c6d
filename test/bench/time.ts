/** Milliseconds that `work` takes, and its result. */
export async function timed<T>(work: () => Promise<T>): Promise<{ ms: number; result: T }> {
  const begin = process.hrtime.bigint();
  const result = await work();
  return { ms: Number(process.hrtime.bigint() - begin) / 1e6, result };
}
