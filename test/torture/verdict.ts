import type { ReaderResult } from "./stage.js";

/** What a torture found: figures to show, and what is wrong with them. */
export interface Outcome {
  readonly figures: Readonly<Record<string, string | number>>;
  /** Sentences; none when all is as it must be. */
  readonly failures: readonly string[];
}

/** Thrown by a torture that cannot run in this build or on this machine; said loudly, no failure. */
export class NotRun extends Error {}

export class Findings {
  readonly figures: Record<string, string | number> = {};
  readonly failures: string[] = [];

  figure(name: string, value: string | number): void {
    this.figures[name] = value;
  }

  want(condition: boolean, otherwise: string): void {
    if (!condition) this.failures.push(otherwise);
  }

  /** Every byte right, and no errno but those allowed. */
  readers(name: string, result: ReaderResult, allowed: readonly string[] = []): void {
    const prefix = name === "" ? "" : `${name}: `;
    const errors = Object.entries(result.errors);
    this.figure(`${prefix}reads`, result.reads);
    this.figure(`${prefix}MB read`, Math.round(result.bytes / 1e6));
    this.figure(`${prefix}errors`, errors.map(([errno, count]) => `${errno} ${count}`).join(", ") || 0);
    this.figure(`${prefix}wrong reads`, result.wrong);
    this.figure(`${prefix}slowest read, ms`, result.slowestMs);
    this.want(result.reads > 0, `${prefix}nothing was read`);
    this.want(result.wrong === 0, `${prefix}${result.wrong} reads gave wrong bytes: ${result.stderr.slice(0, 300)}`);
    const others = errors.filter(([errno]) => !allowed.includes(errno));
    this.want(others.length === 0, `${prefix}errors: ${others.map(([errno, n]) => `${n} ${errno}`).join(", ")}`);
  }

  outcome(): Outcome {
    return { figures: this.figures, failures: this.failures };
  }
}
