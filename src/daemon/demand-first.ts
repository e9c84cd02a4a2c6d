import { messageOf } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { Pace } from "../layer/pace.js";
import type { Clock } from "../registry/clock.js";

/**
 * Lets reads that wait go before the background fill: it stands still while there are any, and for `quietMs` after the last
 * one was answered. It begins as if one just had been.
 */
export class DemandFirst implements Disposable {
  readonly #pace: Pace;
  readonly #quietMs: number;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #closing = new AbortController();
  /** Ends the quiet time that runs, without letting go. */
  #quiet: AbortController | undefined;

  constructor(pace: Pace, quietMs: number, clock: Clock, log: Log) {
    this.#pace = pace;
    this.#quietMs = quietMs;
    this.#clock = clock;
    this.#log = log;
    this.demand()[Symbol.dispose]();
  }

  /** Dispose of it when the read was answered, well or badly. */
  demand(): Disposable {
    const hold = this.#pace.hold();
    if (this.#quietMs === 0) return hold;
    return {
      [Symbol.dispose]: () => {
        // The old quiet time is let go only after the hold it is replaced by, which goes on here.
        this.#quiet?.abort();
        void this.#stayQuiet(hold);
      },
    };
  }

  [Symbol.dispose](): void {
    this.#closing.abort();
    this.#quiet?.abort();
  }

  async #stayQuiet(hold: Disposable): Promise<void> {
    using _hold = hold;
    if (this.#closing.signal.aborted) return;
    const quiet = new AbortController();
    this.#quiet = quiet;
    try {
      await this.#clock.sleep(this.#quietMs, quiet.signal);
    } catch (error) {
      if (!quiet.signal.aborted) this.#log.error("the quiet time of a fill failed", { reason: messageOf(error) });
    }
  }
}
