/** What a read that waits may be waiting for, in the order in which it comes. */
export const steps = [
  /** Its turn: in this process, at the registry's limit of transfers, or of a pool thread. */
  "queue",
  /** A login at the registry. */
  "token",
  /** The registry's word where the blob is. */
  "redirect",
  /** A connection that can take the request. */
  "connection",
  /** The answer's header. */
  "first byte",
  /** The bytes of the blob. */
  "body",
  "decode",
  "digest",
  /** The answer to the kernel. */
  "reply",
  /** What nobody has noted more about. */
  "other",
] as const;
export type Step = (typeof steps)[number];

/** More than this is a read that was tried again and again: what is known of it is enough. */
const MARKS_MAX = 64;

/** What `performance.now()` is behind CLOCK_MONOTONIC, which native code reads. */
const offsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** CLOCK_MONOTONIC in ms. */
export function monotonicMs(): number {
  return performance.now() + offsetMs;
}

interface Mark {
  readonly step: Step;
  readonly atMs: number;
}

/** When steps ended: of one read, or of work that several reads wait for. */
export class StepMarks {
  readonly #marks: Mark[] = [];

  mark(step: Step, atMs: number = monotonicMs()): void {
    if (this.#marks.length >= MARKS_MAX) return;
    // A step that goes on ends later.
    if (this.#marks.at(-1)?.step === step) this.#marks.pop();
    this.#marks.push({ step, atMs });
  }

  /** What others have done for it so far. */
  adopt(other: StepMarks): void {
    for (const mark of other.#marks) if (this.#marks.length < MARKS_MAX) this.#marks.push(mark);
  }

  /**
   * How long each step took of the time from `beganMs` to `endedMs`, in ms: from the end of the step before it, in the order of time. What
   * had ended before it began took none of it. The rest is `rest`.
   */
  durations(beganMs: number, endedMs: number, rest: Step): Partial<Record<Step, number>> {
    const took: Partial<Record<Step, number>> = {};
    let at = beganMs;
    for (const mark of [...this.#marks].sort((a, b) => a.atMs - b.atMs)) {
      const until = Math.min(mark.atMs, endedMs);
      if (until <= at) continue;
      took[mark.step] = (took[mark.step] ?? 0) + until - at;
      at = until;
    }
    if (endedMs > at) took[rest] = (took[rest] ?? 0) + endedMs - at;
    return took;
  }

  has(step: Step): boolean {
    return this.#marks.some((mark) => mark.step === step);
  }
}
