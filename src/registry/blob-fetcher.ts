import { OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Step } from "../base/steps.js";
import type { Digest } from "../oci/digest.js";
import { LinkedSignal } from "./abort.js";
import type { Clock } from "./clock.js";
import type { Endpoint, Endpoints } from "./endpoint.js";
import type { HttpResponse } from "./http-response.js";
import { type Activity, Patience } from "./patience.js";
import type { Priority, PriorityGate } from "./priority-gate.js";
import { bodyStartOf, rangeHeader, type WantedRange } from "./range-response.js";
import { RegistryError } from "./registry-error.js";
import { isSuccess, type RegistryRequest } from "./requester.js";
import { RetryBudget, type RetryPolicy } from "./retry.js";
import { expiryOf } from "./signed-url.js";
import type { TransferStats } from "./transfer-stats.js";

/** What all blobs of a client share. */
export interface BlobFetcherContext {
  readonly endpoints: Endpoints;
  readonly gate: PriorityGate;
  readonly clock: Clock;
  readonly retry: RetryPolicy;
  /** Bytes fewer than `limits.progressBytes` in this time are a stall. */
  readonly stallTimeoutMs: number;
  readonly activity: Activity;
  /** Fires when the client is closed. */
  readonly lifetime: AbortSignal;
}

export interface BlobLocation {
  readonly registry: string;
  readonly repository: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** Asked at each request for whose rights it is made with; without it they are the client's own. */
  readonly authorization?: (() => { readonly header: string | undefined }) | undefined;
}

export interface RangeOptions {
  readonly signal?: AbortSignal | undefined;
  readonly priority?: Priority | undefined;
  /** Called when a connection is free for the request, and again for each that resumes it. */
  readonly onStart?: (() => void) | undefined;
  /** See FetchOptions. */
  readonly onStep?: ((step: Step) => void) | undefined;
  /** See FetchOptions. */
  readonly waitingSinceMs?: number | undefined;
}

/** Where the registry, or a mirror, redirected to. */
interface Target {
  readonly url: URL;
  readonly expiresAtMs: number;
  readonly from: Endpoint;
}

interface Opened {
  readonly response: HttpResponse;
  readonly endpoint: Endpoint;
}

/** One call of `fetchRange`. */
interface Fetch {
  readonly what: string;
  readonly signal: AbortSignal;
  readonly patience: Patience;
  readonly priority: Priority;
  readonly onStart: (() => void) | undefined;
  readonly onStep: ((step: Step) => void) | undefined;
}

/** Answers of a remembered redirect target that mean "ask the registry again": expired, revoked, moved. */
const staleTargetStatuses: ReadonlySet<number> = new Set([400, 401, 403, 404, 410]);

/** Fetches ranges of one blob: remembers where the registry redirected to, resumes, retries. */
export class BlobFetcher {
  readonly location: BlobLocation;
  readonly stats: TransferStats;
  readonly #context: BlobFetcherContext;
  readonly #name: string;
  #target: Target | undefined;
  /** Answers of the whole blob to range requests, in a row. */
  #wholeAnswers = 0;

  constructor(location: BlobLocation, context: BlobFetcherContext, stats: TransferStats) {
    this.location = location;
    this.stats = stats;
    this.#context = context;
    this.#name = `blob ${location.registry}/${location.repository}@${location.digest}`;
  }

  get description(): string {
    return this.#name;
  }

  /**
   * False once the server answered two range requests in a row with the whole blob: every range then costs all bytes before
   * it. One such answer may be a proxy's slip, and is no reason to fetch all of a large blob.
   */
  get rangesSupported(): boolean {
    return this.#wholeAnswers < 2;
  }

  /**
   * The bytes [offset, offset + length), exactly, or an error. A transfer that breaks is resumed where it stopped, as long
   * as bytes arrive; without progress within the retry budget the last failure is thrown, `timeout` if there was none yet.
   */
  async *fetchRange(offset: number, length: number, options: RangeOptions = {}): AsyncIterable<Uint8Array> {
    const end = offset + length;
    const what = `${this.#name}: fetch of bytes ${offset} to ${end} of ${this.location.sizeBytes}`;
    using patience = new Patience(this.#context.retry.timeoutMs, what, this.#context.activity, options.waitingSinceMs);
    using linked = new LinkedSignal(options.signal, this.#context.lifetime, patience.signal);
    const { signal } = linked;
    const { priority = "demand", onStart, onStep } = options;
    try {
      yield* this.#persist(offset, end, { what, signal, patience, priority, onStart, onStep });
    } catch (error) {
      // Whatever it was that patience ended, this is why.
      throw signal.aborted && signal.reason === patience.signal.reason ? signal.reason : error;
    }
  }

  /** Attempt after attempt. */
  async *#persist(offset: number, end: number, fetch: Fetch): AsyncIterable<Uint8Array> {
    const { what, signal, patience } = fetch;
    const budget = new RetryBudget(this.#context.retry, this.#context.clock);
    let position = offset;
    let unrewarded = 0;
    while (position < end) {
      throwIfAborted(signal, what);
      const wanted = { start: position, end, sizeBytes: this.location.sizeBytes };
      try {
        for await (const chunk of this.#attempt(wanted, fetch)) {
          position += chunk.length;
          unrewarded += chunk.length;
          if (unrewarded >= limits.progressBytes) {
            budget.progress();
            patience.progress();
            unrewarded = 0;
          }
          patience.pause();
          yield chunk;
          patience.resume();
        }
        if (position === end) return;
        throw new RegistryError("network", `${what}: the body ended at byte ${position}`, { retryable: true });
      } catch (error) {
        this.#target = undefined;
        patience.failed(error);
        await budget.wait(error, signal);
        this.stats.add("retries");
      }
    }
  }

  /** One request; may end early. Holds its place at the gate until the body is done with. */
  async *#attempt(wanted: WantedRange, fetch: Fetch): AsyncIterable<Uint8Array> {
    const { what, signal, patience, priority, onStart } = fetch;
    using _place = await patience.queue(this.#context.gate.enter(priority, signal));
    onStart?.();
    fetch.onStep?.("queue");
    const { response, endpoint } = await this.#open(wanted, fetch);
    using _closed = response;
    try {
      yield* this.#bytesOf(response, wanted, what);
    } catch (error) {
      if (!signal.aborted) this.#context.endpoints.failed(endpoint, error);
      throw error;
    }
  }

  async *#bytesOf(response: HttpResponse, wanted: WantedRange, what: string): AsyncIterable<Uint8Array> {
    let position = bodyStartOf(response, wanted, what);
    if (response.status === 206) this.#wholeAnswers = 0;
    else if (!this.#isWhole(wanted)) this.#wholeAnswers++;
    const endsWithRange = response.contentLength() === wanted.end - position;
    const stall = new StallGuard(this.#context.clock, this.#context.stallTimeoutMs, what);
    for await (const chunk of response.body()) {
      stall.received(chunk.length);
      const from = Math.max(wanted.start - position, 0);
      const to = Math.min(wanted.end - position, chunk.length);
      position += chunk.length;
      if (from < to) {
        yield chunk.subarray(from, to);
        stall.resume();
      }
      if (position < wanted.end) continue;
      if (position > wanted.end && response.status === 206) {
        throw new OcifsError("mismatch", `${what}: the body goes on after the last byte asked for`);
      }
      // A body that ends here by its own length keeps its connection; the rest of any other is not wanted.
      if (!endsWithRange) return;
    }
  }

  async #open(wanted: WantedRange, { what, signal, onStep }: Fetch): Promise<Opened> {
    const { repository, digest } = this.location;
    const headers = { accept: "*/*", ...(this.#isWhole(wanted) ? {} : { range: rangeHeader(wanted) }) };
    const request: RegistryRequest = {
      path: `blobs/${digest}`,
      repository,
      headers,
      what,
      signal,
      stats: this.stats,
      onStep,
      authorization: this.location.authorization?.(),
    };
    const remembered = await this.#openRemembered(request);
    if (remembered !== undefined) return remembered;
    return await this.#context.endpoints.ask(request, async (response, endpoint) => {
      // A target at the registry itself needs its Authorization, and sparing that redirect gains little.
      if (response.url.origin !== endpoint.requester.url.origin) {
        const expiresAtMs = expiryOf(response.url) ?? Number.POSITIVE_INFINITY;
        this.#target = { url: response.url, expiresAtMs, from: endpoint };
      }
      return { response, endpoint };
    });
  }

  async #openRemembered(request: RegistryRequest): Promise<Opened | undefined> {
    const { clock } = this.#context;
    const target = this.#target;
    if (target === undefined) return undefined;
    if (clock.nowMs() >= target.expiresAtMs) {
      this.#forget(target);
      return undefined;
    }
    const response = await target.from.requester.getDirect(target.url, request);
    if (isSuccess(response)) return { response, endpoint: target.from };
    this.#forget(target);
    if (!staleTargetStatuses.has(response.status)) throw await response.toError(clock.nowMs());
    await response.discard();
    return undefined;
  }

  /** Unless another request has already found a newer target. */
  #forget(target: { readonly url: URL }): void {
    if (this.#target === target) this.#target = undefined;
  }

  /** A fetch of everything is a plain GET, which every server and cache answers. */
  #isWhole(wanted: WantedRange): boolean {
    return wanted.start === 0 && wanted.end === wanted.sizeBytes;
  }
}

/** Notices a server that sends just enough to keep the body timeout from firing. The time a consumer takes does not count. */
class StallGuard {
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #what: string;
  #waitingSinceMs: number;
  #waitedMs = 0;
  #bytes = 0;

  constructor(clock: Clock, timeoutMs: number, what: string) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#what = what;
    this.#waitingSinceMs = clock.nowMs();
  }

  received(bytes: number): void {
    this.resume(this.#clock.nowMs() - this.#waitingSinceMs);
    this.#bytes += bytes;
    if (this.#bytes >= limits.progressBytes) {
      this.#bytes = 0;
      this.#waitedMs = 0;
    } else if (this.#waitedMs > this.#timeoutMs) {
      throw new RegistryError("timeout", `${this.#what}: only ${this.#bytes} bytes in ${this.#waitedMs} ms`, {
        retryable: true,
      });
    }
  }

  /** Waiting begins (again) now, after `waitedMs` of it. */
  resume(waitedMs = 0): void {
    this.#waitedMs += waitedMs;
    this.#waitingSinceMs = this.#clock.nowMs();
  }
}
