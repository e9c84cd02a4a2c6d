/** Neighbouring spans. */
export interface SpanRange {
  readonly first: number;
  readonly last: number;
}

/** Ascending spans as runs of neighbours. */
export function neighboursIn(spans: readonly number[]): SpanRange[] {
  const runs: { first: number; last: number }[] = [];
  for (const span of spans) {
    const run = runs.at(-1);
    if (run?.last === span - 1) run.last = span;
    else runs.push({ first: span, last: span });
  }
  return runs;
}
