export interface TransferCounts {
  /** HTTP requests sent, token requests and followed redirects included. */
  readonly requests: number;
  /** Body bytes taken in; those of redirects and other answers that are thrown away do not count. */
  readonly bytes: number;
  /** Attempts after the first of an operation. */
  readonly retries: number;
}

/** Counts what one blob or one client transferred; a blob's counts add to its client's. */
export class TransferStats {
  #counts = { requests: 0, bytes: 0, retries: 0 };
  readonly #parent: TransferStats | undefined;

  constructor(parent?: TransferStats) {
    this.#parent = parent;
  }

  add(what: keyof TransferCounts, count = 1): void {
    this.#counts[what] += count;
    this.#parent?.add(what, count);
  }

  counts(): TransferCounts {
    return { ...this.#counts };
  }
}
