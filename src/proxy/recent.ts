import { waitShared } from "../registry/abort.js";

/** What was found out last, at most `size` of it: the oldest is forgotten first. */
export class Recent<V> {
  readonly #size: number;
  readonly #entries = new Map<string, V>();

  constructor(size: number) {
    this.#size = size;
  }

  get(key: string): V | undefined {
    return this.#entries.get(key);
  }

  set(key: string, value: V): void {
    this.#entries.delete(key);
    this.#entries.set(key, value);
    const [oldest] = this.#entries.keys();
    if (oldest !== undefined && this.#entries.size > this.#size) this.#entries.delete(oldest);
  }
}

/** Work that all who ask for it at once share. It outlives a caller that gives up. */
export class SingleFlight {
  readonly #flying = new Map<string, Promise<unknown>>();

  async run<T>(key: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    let flying = this.#flying.get(key) as Promise<T> | undefined;
    if (flying === undefined) {
      flying = work().finally(() => this.#flying.delete(key));
      this.#flying.set(key, flying);
      // A caller that gave up does not hear of a failure; those still waiting do.
      flying.catch(() => undefined);
    }
    return await waitShared(flying, "request", signal);
  }
}
