import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";

/** Where the spans of a layer begin that is its own random-access form, or is decoded from its start: every `spanSizeBytes`. */
export class EqualSpans {
  readonly #spanSizeBytes: number;
  #count = 0;

  constructor(spanSizeBytes: number) {
    this.#spanSizeBytes = spanSizeBytes;
  }

  /** Those that begin before byte `end` and were not told yet. Throws `limit` beyond limits.checkpoints spans. */
  startsBefore(end: number): Float64Array {
    const first = this.#count;
    const count = Math.ceil(end / this.#spanSizeBytes);
    if (count > limits.checkpoints) {
      throw new OcifsError("limit", `index create: more than ${limits.checkpoints} spans; choose a larger span size`);
    }
    this.#count = Math.max(first, count);
    return Float64Array.from({ length: this.#count - first }, (_, i) => (first + i) * this.#spanSizeBytes);
  }
}
