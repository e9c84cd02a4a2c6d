/** What a workload measured several times over. */
export interface Summary {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly values: readonly number[];
}

/** ms: wall time. MBps: 10^6 bytes a second. iops: reads a second. */
export type Unit = "ms" | "MB/s" | "reads/s" | "MiB" | "bytes" | "requests";

/** One row of the report. */
export interface Figure {
  readonly workload: string;
  readonly name: string;
  readonly unit: Unit;
  readonly ocifs: Summary;
  readonly reference?: { readonly name: string; readonly summary: Summary };
  /** ocifs beside the reference, taken pair by pair: of speeds ours / theirs, of times theirs / ours, of sizes ours / theirs. */
  readonly ratio?: Summary;
  /** The bar that the figure is held to, in words, and whether it is met. */
  readonly want?: { readonly text: string; readonly met: boolean };
  /** How to get the figure by hand. */
  readonly command: string;
  /** What a reader must know to read it right. */
  readonly note?: string;
}

export function summarize(values: readonly number[]): Summary {
  if (values.length === 0) throw new Error("a figure without a measurement");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const low = sorted[Math.ceil(middle) - 1] ?? 0;
  const high = sorted[Math.floor(middle)] ?? 0;
  return { median: (low + high) / 2, min: sorted[0] ?? 0, max: sorted.at(-1) ?? 0, values };
}

/** Measurements of two things taken in turns, so that a busy moment of the machine meets both. */
export class Pairs {
  readonly ocifs: number[] = [];
  readonly reference: number[] = [];

  add(ocifs: number, reference: number): void {
    this.ocifs.push(ocifs);
    this.reference.push(reference);
  }

  /** `time`: less is better, so the ratio is how many times as fast we are. */
  toFigure(
    kind: "time" | "speed" | "size",
    about: Pick<Figure, "workload" | "name" | "unit" | "command" | "note"> & { readonly referenceName: string },
    want?: { readonly text: string; readonly isMet: (ratio: Summary, ocifs: Summary) => boolean },
  ): Figure {
    const { referenceName, ...rest } = about;
    const ocifs = summarize(this.ocifs);
    const ratio = summarize(
      this.ocifs.map((value, i) => {
        const other = this.reference[i] ?? Number.NaN;
        return kind === "time" ? other / value : value / other;
      }),
    );
    return {
      ...rest,
      ocifs,
      reference: { name: referenceName, summary: summarize(this.reference) },
      ratio,
      ...(want === undefined ? {} : { want: { text: want.text, met: want.isMet(ratio, ocifs) } }),
    };
  }
}
