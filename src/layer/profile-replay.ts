import { setMaxListeners } from "node:events";
import { fetchSizes } from "./fetch-sizes.js";
import { type PlannedLayer, type PlanStep, planReplay } from "./profile-plan.js";
import type { SpanRange } from "./span-ranges.js";

/** So many reads of what the profile does not have, and more than of what it has: it is of another use. */
const STRAYS = 8;

export interface ReplayedLayer extends PlannedLayer {
  /** See SpanProvider. */
  fetchAhead(range: SpanRange, giveUp: AbortSignal): Promise<void>;
}

export interface ReplayAccount {
  /** Compressed bytes asked for by the profile. */
  readonly askedBytes: number;
  /** Of these, what no reader has asked for so far. */
  readonly unprovenBytes: number;
  /** Misses of what the profile has, and of other spans. */
  readonly hits: number;
  readonly strays: number;
}

/**
 * Fetches what access profiles have, in their order, before it is asked for. It goes no further than a bound ahead of what
 * readers have really asked for, begins nothing while a reader waits for something else, and gives up when the reads are not those
 * of the profile. What it brings stays compressed, so that each read of it is still noted here.
 */
export class ProfileReplay implements AsyncDisposable {
  readonly #layers: readonly ReplayedLayer[];
  readonly #steps: readonly PlanStep[];
  /** By layer: how it is with the spans of the profile. A reader that wants one gets it, whoever asked for it first. */
  readonly #planned: readonly Map<number, "planned" | "asked" | "wanted">[];
  readonly #stop = new AbortController();
  readonly #unprovenLimit: number;
  #running: Promise<void> | undefined;
  #failure: { readonly error: unknown } | undefined;
  #wake: () => void = () => undefined;
  #requests = 0;
  #inFlightBytes = 0;
  #unprovenBytes = 0;
  #askedBytes = 0;
  #hits = 0;
  #strays = 0;
  /** Reads that wait for what the profile does not bring. */
  #waiting = 0;

  constructor(layers: readonly ReplayedLayer[]) {
    // One for each transfer: no leak, as Node would warn of.
    setMaxListeners(0, this.#stop.signal);
    this.#layers = layers;
    this.#steps = planReplay(layers);
    this.#planned = layers.map(({ accesses }) => new Map(accesses.map(({ span }) => [span, "planned"])));
    const bytes = this.#steps.reduce((sum, step) => sum + step.bytes, 0);
    this.#unprovenLimit = Math.min(fetchSizes.profileUnprovenBytes, bytes * fetchSizes.unprovenShare);
  }

  get account(): ReplayAccount {
    return {
      askedBytes: this.#askedBytes,
      unprovenBytes: this.#unprovenBytes,
      hits: this.#hits,
      strays: this.#strays,
    };
  }

  /** Begins, and resolves when all of it was fetched or nothing more will be. */
  run(): Promise<void> {
    this.#running ??= this.#run();
    return this.#running;
  }

  /** A reader misses these spans of a layer, counted from 0; dispose of it when they are there. */
  demand(layer: number, { first, last }: SpanRange): Disposable {
    const planned = this.#planned[layer];
    let known = false;
    for (let span = first; span <= last; span++) {
      const state = planned?.get(span);
      if (state === undefined) continue;
      known = true;
      if (state === "asked") this.#unprovenBytes -= this.#sizeOf(layer, span);
      planned?.set(span, "wanted");
    }
    if (known) this.#hits += 1;
    else this.#strays += 1;
    if (this.#strays >= STRAYS && this.#strays > this.#hits) this.#stop.abort();
    this.#waiting += known ? 0 : 1;
    this.#wake();
    let open = !known;
    return {
      [Symbol.dispose]: () => {
        if (!open) return;
        open = false;
        this.#waiting -= 1;
        this.#wake();
      },
    };
  }

  /** Stops: what nobody waits for is fetched no further. What others wait for is not waited for here. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#wake();
    // Who called `run` has its failure.
    await Promise.allSettled([this.#running]);
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    for (const step of this.#steps) {
      while (!signal.aborted && !this.#mayBegin(step)) {
        await this.#changed();
      }
      if (signal.aborted) break;
      void this.#begin(step);
    }
    // What others wait for may go on for longer, and is theirs.
    while (!signal.aborted && this.#requests > 0) await this.#changed();
    if (this.#failure) throw this.#failure.error;
  }

  #changed(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  #mayBegin({ bytes }: PlanStep): boolean {
    if (this.#waiting > 0 || this.#requests >= fetchSizes.profileRequests) return false;
    if (this.#inFlightBytes > 0 && this.#inFlightBytes + bytes > fetchSizes.profileInFlightBytes) return false;
    return this.#unprovenBytes === 0 || this.#unprovenBytes + bytes <= this.#unprovenLimit;
  }

  /** Never rejects. */
  async #begin(step: PlanStep): Promise<void> {
    const { layer, first, last, bytes } = step;
    const planned = this.#planned[layer];
    for (let span = first; span <= last; span++) {
      if (planned?.get(span) !== "planned") continue;
      planned.set(span, "asked");
      this.#unprovenBytes += this.#sizeOf(layer, span);
      this.#askedBytes += this.#sizeOf(layer, span);
    }
    this.#requests += 1;
    this.#inFlightBytes += bytes;
    try {
      await this.#layers[layer]?.fetchAhead(step, this.#stop.signal);
    } catch (error) {
      this.#failure ??= { error };
      this.#stop.abort();
    } finally {
      this.#requests -= 1;
      this.#inFlightBytes -= bytes;
      this.#wake();
    }
  }

  #sizeOf(layer: number, span: number): number {
    return this.#layers[layer]?.sizeOf({ first: span, last: span }) ?? 0;
  }
}
