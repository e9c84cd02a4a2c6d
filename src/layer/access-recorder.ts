import { limits } from "../base/limits.js";
import type { SpanRange } from "./span-ranges.js";

/** A span that was read, when its turn came. */
export interface SpanAccess {
  /** Since the first access of any layer. */
  readonly atMs: number;
  readonly span: number;
}

/** Writes down which spans of several layers are missed first, each once, in order, for a while from the first miss on. */
export class AccessRecorder {
  readonly #now: () => number;
  readonly #windowMs: number;
  readonly #accesses: SpanAccess[][];
  readonly #seen: Set<number>[];
  #firstMs: number | undefined;

  constructor(layerCount: number, windowMs: number, now: () => number) {
    this.#now = now;
    this.#windowMs = windowMs;
    this.#accesses = Array.from({ length: layerCount }, () => []);
    this.#seen = Array.from({ length: layerCount }, () => new Set());
  }

  /** Layers are counted from 0. */
  note(layer: number, { first, last }: SpanRange): void {
    this.#firstMs ??= this.#now();
    const atMs = Math.max(0, Math.round(this.#now() - this.#firstMs));
    const accesses = this.#accesses[layer];
    const seen = this.#seen[layer];
    if (!accesses || !seen || atMs > this.#windowMs) return;
    for (let span = first; span <= last && accesses.length < limits.profileReads; span++) {
      if (seen.has(span)) continue;
      seen.add(span);
      accesses.push({ atMs, span });
    }
  }

  accessesOf(layer: number): readonly SpanAccess[] {
    return this.#accesses[layer] ?? [];
  }
}
