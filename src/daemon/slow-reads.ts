import { monotonicMs, type Step, type StepMarks } from "../base/steps.js";

/** Kept of each kind: enough to see what is going on, few enough to be told in one message of the control socket. */
const KEPT = 32;

/** One read that had to wait. */
export interface ReadTrace {
  readonly mountpoint: string;
  readonly layer: string;
  readonly firstSpan: number;
  readonly lastSpan: number;
  /** When it was answered; ISO 8601. */
  readonly at: string;
  /** From its parking to its answer. */
  readonly totalMs: number;
  /** What it waited for; all together it is `totalMs`. */
  readonly steps: Partial<Readonly<Record<Step, number>>>;
  /** The code of the error that it was answered with; null when it got its bytes. */
  readonly error: string | null;
}

/** The slowest and the latest reads of one mount that had to wait. */
export class SlowReads {
  readonly #mountpoint: string;
  readonly #latest: ReadTrace[] = [];
  /** Slowest first. */
  readonly #slowest: ReadTrace[] = [];

  constructor(mountpoint: string) {
    this.#mountpoint = mountpoint;
  }

  /** A read that was parked at `parkedMs` (CLOCK_MONOTONIC) and has been answered now. */
  add(
    read: { readonly layer: string; readonly firstSpan: number; readonly lastSpan: number; readonly parkedMs: number },
    marks: StepMarks,
    error: string | null,
  ): void {
    const { parkedMs, ...what } = read;
    const endedMs = monotonicMs();
    const rest = marks.has("decode") ? "reply" : "other";
    const trace: ReadTrace = {
      mountpoint: this.#mountpoint,
      ...what,
      at: new Date().toISOString(),
      totalMs: endedMs - parkedMs,
      steps: marks.durations(parkedMs, endedMs, rest),
      error,
    };
    this.#latest.push(trace);
    if (this.#latest.length > KEPT) this.#latest.shift();
    const place = this.#slowest.findIndex(({ totalMs }) => totalMs < trace.totalMs);
    if (place < 0 && this.#slowest.length >= KEPT) return;
    this.#slowest.splice(place < 0 ? this.#slowest.length : place, 0, trace);
    if (this.#slowest.length > KEPT) this.#slowest.pop();
  }

  /** Each once, slowest first. */
  traces(): ReadTrace[] {
    return [...new Set([...this.#slowest, ...this.#latest])].sort((a, b) => b.totalMs - a.totalMs);
  }
}
