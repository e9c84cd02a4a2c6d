import { setTimeout as delay } from "node:timers/promises";
import { errnoOfReadError } from "../base/errno.js";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { StepMarks } from "../base/steps.js";
import type { OpenLayer } from "../layer/open-layer.js";
import { FreshFailures } from "./fresh-failures.js";
import type { SlowReads } from "./slow-reads.js";

const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 15_000;
/** Times that what one read wants may be evicted before all of it is there. */
const MAX_EVICTIONS = 16;
/** A failure that came sooner may as well be had again. */
const LONG_WAIT_MS = 200;

export interface MissHandlerOptions {
  readonly onError: "eio" | "retry";
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Told of each read that waits, once; what it returns is disposed of when the read was answered. */
  readonly onMiss: (device: number, first: number, last: number) => Disposable | undefined;
  /** Called before a read waits; what it returns is disposed of when the read was answered or waits for time to pass. */
  readonly onDemand: () => Disposable;
  /** Told of each read that has waited. */
  readonly slow: SlowReads;
  /** Reads fail, or wait, because of this. Undefined: they work again. */
  readonly onHealth: (problem: string | undefined) => void;
}

/**
 * Brings what a parked read waits for, or answers it with an errno. `onerror=retry` keeps trying for as long as the cause
 * may pass; wrong bytes never pass.
 */
export class MissHandler {
  readonly #layers: readonly OpenLayer[];
  readonly #o: MissHandlerOptions;
  readonly #failures = new FreshFailures();
  readonly #errors = new Map<string, number>();

  /** `layers` in the order of the tarindex' device slots. */
  constructor(layers: readonly OpenLayer[], options: MissHandlerOptions) {
    this.#layers = layers;
    this.#o = options;
  }

  /** How many reads failed, by the code of their error. */
  errors(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#errors);
  }

  /** Never rejects: every outcome is an answer to the reader. */
  async handle(device: number, first: number, last: number, fileEndSpan: number, parkedMs: number): Promise<void> {
    const layer = this.#layers[device - 1];
    if (!layer) {
      this.#o.log.error("a read came for a layer that is not there", { device });
      return;
    }
    const repeated = this.#failures.take(device, first, last);
    if (repeated !== undefined) {
      layer.store.fail(first, last, repeated);
      return;
    }
    const { signal, log, onHealth } = this.#o;
    const marks = new StepMarks();
    marks.mark("queue");
    using _miss = this.#o.onMiss(device, first, last);
    const began = performance.now();
    for (let waitMs = RETRY_FIRST_MS; ; waitMs = Math.min(RETRY_MAX_MS, waitMs * 2)) {
      try {
        await this.#bring(layer, first, last, fileEndSpan, marks);
        this.#o.slow.add({ layer: layer.source.digest, firstSpan: first, lastSpan: last, parkedMs }, marks, null);
        onHealth(undefined);
        return;
      } catch (error) {
        const problem = messageOf(error);
        const mayPass =
          isOcifsError(error, "network") || isOcifsError(error, "timeout") || isOcifsError(error, "unauthorized");
        if (!signal.aborted) onHealth(problem);
        if (this.#o.onError === "eio" || !mayPass || signal.aborted) {
          log.error("a read fails", { digest: layer.source.digest, first, last, reason: problem });
          const cause = isOcifsError(error) ? error.code : "internal";
          this.#errors.set(cause, (this.#errors.get(cause) ?? 0) + 1);
          const errno = errnoOfReadError(error);
          if (performance.now() - began > LONG_WAIT_MS) this.#failures.add(device, first, last, errno);
          layer.store.fail(first, last, errno);
          this.#o.slow.add({ layer: layer.source.digest, firstSpan: first, lastSpan: last, parkedMs }, marks, cause);
          return;
        }
        log.warn("a read waits for its data", { digest: layer.source.digest, first, last, reason: problem });
        // Rejects only when the mount ends; the next round then fails the read.
        await delay(Math.random() * waitMs, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  /**
   * Until all spans are there at once and who waits for them has been woken. Spans that another process commits wake nobody
   * here, and some may be evicted before the last one comes.
   */
  async #bring(layer: OpenLayer, first: number, last: number, fileEndSpan: number, marks: StepMarks): Promise<void> {
    using _first = this.#o.onDemand();
    for (let tries = 0; tries < MAX_EVICTIONS; tries++) {
      await layer.spans.ensure(first, last, { fileEndSpan, tries, marks });
      if (layer.store.wake(first, last)) return;
    }
    throw new OcifsError(
      "io",
      `spans ${first} to ${last}: the cache gave them up ${MAX_EVICTIONS} times before all were there; it needs more space`,
    );
  }
}
