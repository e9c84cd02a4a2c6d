/** What keeps something from being healthy. */
export interface Problem {
  /** One sentence. */
  readonly sentence: string;
  readonly since: Date;
}

/** The problem of now: one that goes on, perhaps in other words, began when it began. */
export function problemNow(before: Problem | undefined, sentence: string | undefined): Problem | undefined {
  return sentence === undefined ? undefined : { sentence, since: before?.since ?? new Date() };
}
