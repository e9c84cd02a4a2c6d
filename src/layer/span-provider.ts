import { setMaxListeners } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { StepMarks } from "../base/steps.js";
import type { SpanRange } from "./span-ranges.js";

/** Between two tries to write a span that is being evicted, or that finds the memory full of others. */
const BUSY_POLL_MS = 20;

export interface EnsureOptions {
  readonly fileEndSpan?: number;
  readonly signal?: AbortSignal;
  readonly tries?: number;
  /** Told what the wait was for, as far as the provider knows. */
  readonly marks?: StepMarks;
}

/** Makes spans of a layer present in its SpanStore. Implementations: span by span, or the whole layer in one pass. */
export abstract class SpanProvider implements AsyncDisposable {
  protected readonly closing = new AbortController();
  readonly #held = new Set<{ readonly first: number; readonly last: number }>();
  #refusal: OcifsError | undefined;

  constructor() {
    // One for each span on its way: no leak, as Node would warn of.
    setMaxListeners(0, this.closing.signal);
  }

  /**
   * Resolves when all spans of [first, last] are present, rejects with the first failure. `fileEndSpan` is how far reading
   * ahead can make sense. A cancelled caller leaves; the work goes on for others. `tries` counts how often this caller has
   * found spans gone before it could read them: after a few they are kept in memory, where no other process gives them up.
   */
  abstract ensure(first: number, last: number, options?: EnsureOptions): Promise<void>;

  /**
   * Makes one span present for nobody who waits for it: without reading ahead, and without a word about how the layer is
   * read. Its compressed bytes should be here: those that are not are fetched as demand.
   */
  abstract bring(span: number, signal: AbortSignal): Promise<void>;

  /**
   * Fetches what these spans are made of before anybody asks for them, as RangeFetcher.ahead does; they stay compressed. Resolves
   * when nothing more of it is on its way, whatever came. Providers that cannot use parts of a blob do nothing.
   */
  async fetchAhead(_range: SpanRange, _giveUp: AbortSignal): Promise<void> {
    return;
  }

  /** Until disposal none of these spans is given up for want of room: for who reads them next. */
  hold(first: number, last: number): Disposable {
    const held = { first, last };
    this.#held.add(held);
    return { [Symbol.dispose]: () => void this.#held.delete(held) };
  }

  holds(span: number): boolean {
    return [...this.#held].some(({ first, last }) => first <= span && span <= last);
  }

  /** Why nothing of this blob is served any more. */
  get refusal(): OcifsError | undefined {
    return this.#refusal;
  }

  /** From now on every read of missing spans fails with this error: the blob is not what it should be. */
  refuse(error: OcifsError): void {
    this.#refusal = error;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.closing.abort(new OcifsError("aborted", "read: the layer is being closed"));
    await this.ended();
  }

  /** Resolves when nothing runs any more, after `closing` has fired. */
  protected abstract ended(): Promise<unknown>;

  protected throwIfRefused(): void {
    if (this.#refusal) throw this.#refusal;
  }

  protected async pauseWhileBusy(): Promise<void> {
    const { signal } = this.closing;
    await delay(BUSY_POLL_MS, undefined, { signal }).catch(() => throwIfAborted(signal, "read"));
  }
}
