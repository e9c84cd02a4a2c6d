import { isOcifsError, messageOf } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { FillOutcome } from "../layer/layer-fill.js";
import { monotonicClock, Pace } from "../layer/pace.js";
import type { Clock } from "../registry/clock.js";
import { DemandFirst } from "./demand-first.js";
import type { FillStatus } from "./status.js";

/** `idle` fills when no read has had to wait for this long. */
const QUIET_MS = 1_000;
const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 60_000;
/** Between two looks whether the cache has room again. */
const FULL_MS = 60_000;

/** What a fill needs of a layer; OpenLayer is one. */
export interface FillableLayer {
  readonly source: { readonly digest: string };
  readonly complete: boolean;
  /** Compressed bytes to be fetched. */
  readonly bytesLeft: number;
  fill(pace: Pace, signal: AbortSignal): Promise<FillOutcome>;
  keepFilled(): Promise<void>;
  checkWholeBlob(): Promise<void>;
}

export interface BackgroundFillOptions {
  readonly mode: "none" | "idle" | "all";
  /** Most bytes a second from the network. */
  readonly bytesPerSecond: number | undefined;
  readonly log: Log;
  /** Ends everything. */
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

interface Work {
  readonly layer: FillableLayer;
  state: "waiting" | "filling" | "done" | "failed";
  reason: string | undefined;
  failures: number;
  nextTryMs: number;
}

/**
 * Fetches what was not asked for, one layer at a time, those with the least to fetch first: each that is complete is one that
 * the network cannot hurt any more, and a layer that an earlier mount began is soon done. Reads that wait go first. What may
 * pass is tried again for as long as the mount lives; no failure here reaches a read.
 */
export class BackgroundFill implements AsyncDisposable {
  readonly #o: BackgroundFillOptions;
  readonly #clock: Clock;
  readonly #layers: readonly FillableLayer[];
  readonly #work = new Map<FillableLayer, Work>();
  readonly #pace: Pace;
  readonly #first: DemandFirst | undefined;
  #running: Promise<void> | undefined;

  constructor(layers: readonly FillableLayer[], options: BackgroundFillOptions) {
    const { mode, bytesPerSecond, log, clock = monotonicClock } = options;
    this.#o = options;
    this.#clock = clock;
    this.#layers = layers;
    this.#pace = new Pace(bytesPerSecond === undefined ? { clock } : { bytesPerSecond, clock });
    if (mode === "none") return;
    this.#first = new DemandFirst(this.#pace, mode === "idle" ? QUIET_MS : 0, clock, log);
    for (const layer of layers) {
      this.#work.set(layer, { layer, state: "waiting", reason: undefined, failures: 0, nextTryMs: 0 });
    }
  }

  /** Call once the mount answers. Without a fill, blobs that are whole and were never checked are checked, from the cache. */
  start(): void {
    this.#running ??= this.#run().catch((error: unknown) => {
      // Reads go on without it.
      this.#o.log.error("the background fill has stopped", { reason: messageOf(error) });
    });
  }

  /** For a read that waits: the fill stands still until this is disposed of. */
  demand(): Disposable {
    return this.#first?.demand() ?? { [Symbol.dispose]: () => undefined };
  }

  statusOf(layer: FillableLayer): FillStatus {
    const work = this.#work.get(layer);
    if (!work) return { state: "off", reason: null, bytesLeft: layer.bytesLeft };
    const paused = work.state === "filling" && this.#pace.held;
    const reason = paused ? "reads go first" : (work.reason ?? null);
    return { state: paused ? "paused" : work.state, reason, bytesLeft: layer.bytesLeft };
  }

  /** Waits for the end of what runs; the options' signal ends it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#first?.[Symbol.dispose]();
    await this.#running;
  }

  async #run(): Promise<void> {
    // Not on the way to the mount: flushing takes as long as the disk does.
    for (const layer of this.#layers) {
      if (this.#o.signal.aborted) return;
      await layer.keepFilled();
    }
    await (this.#o.mode === "none" ? this.#check() : this.#fill());
  }

  async #check(): Promise<void> {
    for (const layer of this.#layers) {
      if (this.#o.signal.aborted) return;
      if (!layer.complete) await layer.checkWholeBlob();
    }
  }

  async #fill(): Promise<void> {
    const { signal } = this.#o;
    while (!signal.aborted) {
      const waiting = [...this.#work.values()].filter(({ state }) => state === "waiting");
      if (waiting.length === 0) return;
      const now = this.#clock.nowMs();
      const [next] = waiting
        .filter(({ nextTryMs }) => nextTryMs <= now)
        .sort((a, b) => a.layer.bytesLeft - b.layer.bytesLeft);
      if (next) await this.#fillOne(next);
      else await this.#sleep(Math.min(...waiting.map(({ nextTryMs }) => nextTryMs)) - now);
    }
  }

  /** Never rejects: what happened is in `work` and in the log. */
  async #fillOne(work: Work): Promise<void> {
    const { log, signal } = this.#o;
    const { layer } = work;
    const { digest } = layer.source;
    if (layer.complete) {
      work.state = "done";
      return;
    }
    work.state = "filling";
    work.reason = undefined;
    log.info("filling a layer in the background", { digest, bytesLeft: layer.bytesLeft });
    try {
      this.#settle(work, await layer.fill(this.#pace, signal));
    } catch (error) {
      work.state = "waiting";
      work.reason = messageOf(error);
      if (signal.aborted) return;
      work.failures += 1;
      const waitMs = this.#waitMs(error, work.failures);
      work.nextTryMs = this.#clock.nowMs() + waitMs;
      log.warn("the background fill of a layer waits", { digest, reason: work.reason, waitMs });
    }
  }

  #settle(work: Work, outcome: FillOutcome): void {
    const { digest } = work.layer.source;
    if (outcome.kind === "complete") {
      work.state = "done";
      if (!outcome.compared) work.reason = "the blob's digest is right; there was no diffID to compare its tar with";
      const { tarDigest, compared } = outcome;
      this.#o.log.info("a layer is complete and its digests are right", {
        digest,
        tarDigest,
        diffIdCompared: compared,
      });
      return;
    }
    work.state = "failed";
    work.reason = outcome.error.message;
    this.#o.log.error("a layer cannot be completed", { digest, reason: work.reason });
  }

  #waitMs(error: unknown, failures: number): number {
    if (isOcifsError(error, "no-space")) return FULL_MS;
    const ceilingMs = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** Math.min(failures - 1, 10));
    // At least half of it: a fill is in no hurry.
    return Math.ceil(ceilingMs * (0.5 + this.#clock.random() / 2));
  }

  async #sleep(ms: number): Promise<void> {
    const { signal } = this.#o;
    await this.#clock.sleep(ms, signal).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
  }
}
