import type { SpanAccess } from "./access-recorder.js";
import { fetchSizes } from "./fetch-sizes.js";
import { neighboursIn, type SpanRange } from "./span-ranges.js";

/** One layer of a plan: which spans it is about, and how large they are. */
export interface PlannedLayer {
  readonly accesses: readonly SpanAccess[];
  /** Compressed bytes of neighbouring spans. */
  sizeOf(range: SpanRange): number;
}

/** Neighbouring spans of one layer that are asked for together. */
export interface PlanStep extends SpanRange {
  /** Counted from 0. */
  readonly layer: number;
  readonly bytes: number;
}

/**
 * Puts the accesses of several layers into one order and joins what is wanted at about the same time: of each
 * `profileBatchBytes` of the order, neighbours become one step.
 */
export function planReplay(layers: readonly PlannedLayer[]): PlanStep[] {
  const order = layers
    .flatMap(({ accesses, sizeOf }, layer) =>
      accesses.map(({ atMs, span }) => ({ atMs, layer, span, bytes: sizeOf({ first: span, last: span }) })),
    )
    .sort((a, b) => a.atMs - b.atMs);
  const steps: PlanStep[] = [];
  let batch: typeof order = [];
  let bytes = 0;
  const endBatch = () => {
    steps.push(...stepsOf(batch, layers));
    batch = [];
    bytes = 0;
  };
  for (const access of order) {
    batch.push(access);
    bytes += access.bytes;
    if (bytes >= fetchSizes.profileBatchBytes) endBatch();
  }
  endBatch();
  return steps;
}

/** The earliest wanted first. */
function stepsOf(batch: readonly { layer: number; span: number }[], layers: readonly PlannedLayer[]): PlanStep[] {
  const spansOf = new Map<number, Map<number, number>>();
  batch.forEach(({ layer, span }, rank) => {
    const ranks = spansOf.get(layer) ?? new Map<number, number>();
    spansOf.set(layer, ranks);
    if (!ranks.has(span)) ranks.set(span, rank);
  });
  const steps: { readonly step: PlanStep; readonly rank: number }[] = [];
  for (const [layer, ranks] of spansOf) {
    for (const run of neighboursIn([...ranks.keys()].sort((a, b) => a - b))) {
      let rank = Number.POSITIVE_INFINITY;
      for (let span = run.first; span <= run.last; span++) rank = Math.min(rank, ranks.get(span) ?? rank);
      steps.push({ step: { ...run, layer, bytes: layers[layer]?.sizeOf(run) ?? 0 }, rank });
    }
  }
  return steps.sort((a, b) => a.rank - b.rank).map(({ step }) => step);
}
