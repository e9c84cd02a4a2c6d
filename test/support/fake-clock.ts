import { throwIfAborted } from "../../src/base/errors.js";
import type { Clock } from "../../src/registry/clock.js";

/** A clock that stands still but for its sleeps, which end at once and are recorded. */
export class FakeClock implements Clock {
  readonly sleepsMs: number[] = [];
  #nowMs: number;
  readonly #random: number;

  constructor(nowMs = Date.parse("2026-01-01T00:00:00Z"), random = 0.5) {
    this.#nowMs = nowMs;
    this.#random = random;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  advance(ms: number): void {
    this.#nowMs += ms;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal, "sleep");
    this.sleepsMs.push(ms);
    this.#nowMs += ms;
  }

  random(): number {
    return this.#random;
  }
}
