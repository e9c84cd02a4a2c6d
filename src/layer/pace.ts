import { type Clock, systemClock } from "../registry/clock.js";
import { fetchSizes } from "./fetch-sizes.js";

/** How much unused bandwidth may be made up for: covers timers that fire late, and is too little to be seen as a burst. */
const CREDIT_MS = 50;

/** Requests smaller than this cost more than the bytes they bring. */
const MIN_REQUEST_BYTES = 64 << 10;

/** Milliseconds that only grow: a step of the wall clock would stop a fill for as long as the step. */
export const monotonicClock: Clock = { ...systemClock, nowMs: () => performance.now() };

export interface PaceOptions {
  /** Upper bound for all transfers that share this pace together; without it they are only held and released. */
  readonly bytesPerSecond?: number;
  readonly clock?: Clock;
}

/**
 * Slows prefetch transfers down: one bandwidth cap for all that share it, and a hold during which they give way. Demand
 * reads never wait for it.
 */
export class Pace {
  /** How much one request should ask for: about a second's worth, so that other processes wait no longer for its lock. */
  readonly requestBytes: number;
  readonly #bytesPerSecond: number;
  readonly #clock: Clock;
  readonly #waiting = new Set<() => void>();
  #holders = 0;
  /** When everything that was admitted so far has had its time. */
  #paidUntilMs = Number.NEGATIVE_INFINITY;

  constructor(options: PaceOptions = {}) {
    this.#bytesPerSecond = options.bytesPerSecond ?? Number.POSITIVE_INFINITY;
    this.#clock = options.clock ?? monotonicClock;
    this.requestBytes = Math.max(MIN_REQUEST_BYTES, Math.min(fetchSizes.maxRangeBytes, this.#bytesPerSecond));
  }

  /** True while somebody holds it. */
  get held(): boolean {
    return this.#holders > 0;
  }

  /** Prefetch transfers stop until this and all other holds are disposed of. */
  hold(): Disposable {
    this.#holders += 1;
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        this.#holders -= 1;
        if (this.#holders > 0) return;
        for (const go of [...this.#waiting]) go();
      },
    };
  }

  /** Resolves once nobody holds it, or as soon as `until` fires. */
  async released(until: AbortSignal): Promise<void> {
    while (this.held && !until.aborted) {
      await new Promise<void>((resolve) => {
        const go = () => {
          this.#waiting.delete(go);
          until.removeEventListener("abort", go);
          resolve();
        };
        this.#waiting.add(go);
        until.addEventListener("abort", go, { once: true });
      });
    }
  }

  /** Accounts for bytes that were transferred; resolves when their time has passed, or as soon as `until` fires. */
  async spend(bytes: number, until: AbortSignal): Promise<void> {
    const now = this.#clock.nowMs();
    this.#paidUntilMs = Math.max(this.#paidUntilMs, now - CREDIT_MS) + (bytes / this.#bytesPerSecond) * 1000;
    const waitMs = this.#paidUntilMs - now;
    if (waitMs <= 0 || until.aborted) return;
    try {
      await this.#clock.sleep(waitMs, until);
    } catch (error) {
      if (!until.aborted) throw error;
    }
  }
}
