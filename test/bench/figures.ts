/** What a workload measured several times over. */
export interface Summary {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly values: readonly number[];
}

/** ms: wall time. MB/s: 10^6 bytes a second. reads/s: of 4 KiB. µs: processor time. */
export type Unit = "ms" | "µs" | "MB/s" | "reads/s" | "MiB" | "bytes" | "requests";

/** What a figure is held to. */
export interface Want {
  readonly text: string;
  readonly met: boolean;
  /** The ratio that is wanted, when it is one: the line in the plot. */
  readonly ratio?: number;
}

/** One row of the report. */
export interface Figure {
  readonly workload: string;
  readonly name: string;
  readonly unit: Unit;
  readonly ocifs: Summary;
  readonly reference?: { readonly name: string; readonly summary: Summary };
  /**
   * How many times as good as the reference, taken pair by pair, above 1 better for us: of speeds ours / theirs, of times and
   * sizes theirs / ours.
   */
  readonly ratio?: Summary;
  readonly want?: Want;
  /** How to get the figure by hand. */
  readonly command: string;
  /** What a reader must know to read it right. */
  readonly note?: string;
}

/** Thrown by a workload that cannot run here, with the reason; no failure. */
export class Skipped extends Error {}

export type About = Pick<Figure, "workload" | "name" | "unit" | "command" | "note">;

export interface WantedRatio {
  readonly text: string;
  /** Least median ratio. */
  readonly ratio?: number;
  /** Instead of the ratio. */
  readonly isMet?: (ocifs: Summary) => boolean;
}

export function summarize(values: readonly number[]): Summary {
  if (values.length === 0) throw new Error("a figure without a measurement");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const low = sorted[Math.ceil(middle) - 1] ?? 0;
  const high = sorted[Math.floor(middle)] ?? 0;
  return { median: (low + high) / 2, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0, values };
}

/** At least so many times as fast. */
export function atLeast(ratio: number): WantedRatio {
  return { text: `≥ ${ratio.toFixed(2)} ×`, ratio };
}

/** At most so many times the reference's time or size; the ratio is its inverse. */
export function atMost(factor: number): WantedRatio {
  return { text: `at most ${factor} × (≥ ${(1 / factor).toFixed(2)} ×)`, ratio: 1 / factor };
}

/** Measurements of two things taken in turns, so that a busy moment of the machine meets both. */
export class Pairs {
  readonly ocifs: number[] = [];
  readonly reference: number[] = [];

  add(ocifs: number, reference: number): void {
    this.ocifs.push(ocifs);
    this.reference.push(reference);
  }

  /** `time` and `size`: less is better. */
  toFigure(
    kind: "time" | "speed" | "size",
    about: About & { readonly referenceName: string },
    want?: WantedRatio,
  ): Figure {
    const { referenceName, ...rest } = about;
    const ocifs = summarize(this.ocifs);
    const ratio = summarize(
      this.ocifs.map((value, i) => {
        const other = this.reference[i] ?? Number.NaN;
        return kind === "speed" ? value / other : other / value;
      }),
    );
    return {
      ...rest,
      ocifs,
      reference: { name: referenceName, summary: summarize(this.reference) },
      ratio,
      ...(want === undefined ? {} : { want: judge(want, ratio, ocifs) }),
    };
  }
}

function judge(want: WantedRatio, ratio: Summary, ocifs: Summary): Want {
  const met = (want.isMet?.(ocifs) ?? true) && (want.ratio === undefined || ratio.median >= want.ratio);
  return { text: want.text, met, ...(want.ratio === undefined ? {} : { ratio: want.ratio }) };
}
