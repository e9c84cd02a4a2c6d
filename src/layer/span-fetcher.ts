import { isOcifsError, type OcifsError, throwIfAborted } from "../base/errors.js";
import { StepMarks } from "../base/steps.js";
import { type FillTimes, SPAN_SUSPECT, type SpanStore } from "../native/layer.js";
import type { ByteRange } from "../native/sparse.js";
import { waitShared } from "../registry/abort.js";
import type { RangeFetcher } from "./range-fetcher.js";
import { type Ahead, ReadAhead } from "./read-ahead.js";
import { type EnsureOptions, SpanProvider } from "./span-provider.js";
import { neighboursIn, type SpanRange } from "./span-ranges.js";
import { reserveSpan, type SpanRoom } from "./span-room.js";
import { Speculation } from "./speculation.js";

/** Times that spans may be gone before they are read until they are kept in memory. */
const FLEETING_TRIES = 3;

export interface SpanFetcherOptions extends SpanRoom {
  readonly store: SpanStore;
  readonly fetcher: RangeFetcher;
  /**
   * Spans without a digest: check each checkpoint's window against the span before it, which must be fetched too. Finds a
   * zinfo that does not fit the blob; costs one more span where reading begins.
   */
  readonly checkWindows: boolean;
  /** The disk cache was given up for this layer. */
  onDegraded(reason: string): void;
  /** Bytes of the cache were wrong and are fetched again. */
  onRefetch(span: number, reason: string): void;
}

/** Makes spans present: fetches, decodes, checks and commits each once, however many wait for it. */
export class SpanFetcher extends SpanProvider {
  readonly #o: SpanFetcherOptions;
  readonly #inFlight = new Map<number, Promise<void>>();
  /** What the spans in flight have waited for so far. */
  readonly #marks = new Map<number, StepMarks>();
  readonly #speculation: Speculation;
  readonly #readAhead: ReadAhead;
  readonly #goodWindows = new Set<number>();
  /** Spans that other processes gave up again and again before they could be read here. */
  readonly #fleeting = new Set<number>();

  constructor(options: SpanFetcherOptions) {
    super();
    this.#o = options;
    this.#speculation = new Speculation(options.table, (span) => options.store.present(span));
    this.#readAhead = new ReadAhead(this.#speculation, options.table.spanCount);
  }

  override async ensure(first: number, last: number, options: EnsureOptions = {}): Promise<void> {
    throwIfAborted(options.signal, "read");
    this.throwIfRefused();
    using _ = this.hold(first, last);
    const { store } = this.#o;
    const absent = store.absent(first, last);
    const [firstAbsent] = absent;
    if (firstAbsent === undefined) return;
    if ((options.tries ?? 0) >= FLEETING_TRIES) for (const span of absent) this.#fleeting.add(span);
    // What is here already is neither read ahead nor a sign of how the layer is read.
    const lastAbsent = absent.at(-1) ?? firstAbsent;
    const plans = this.#readAhead
      .note(firstAbsent, lastAbsent, options.fileEndSpan ?? lastAbsent)
      .flatMap((plan) => this.#absentOf(plan));
    const joined = new Set(absent.filter((span) => this.#inFlight.has(span)));
    this.#startRuns(absent, plans);
    // Behind what is wanted now.
    for (const plan of plans) void this.#o.fetcher.ahead(this.#bytesOf(plan), plan.giveUp);
    const pending = absent.map((span) => (joined.has(span) ? this.#joined(span) : this.#inFlight.get(span)));
    const marks = options.marks && absent.map((span) => this.#marks.get(span));
    try {
      await waitShared(Promise.all(pending), "read", options.signal);
    } finally {
      for (const each of marks ?? []) if (each) options.marks?.adopt(each);
    }
  }

  /**
   * Another caller's work on a span, and this caller's own when that failed by what the source answered before this caller
   * asked. A failure of time is shared: its limit has been waited for.
   */
  async #joined(span: number): Promise<void> {
    try {
      await this.#inFlight.get(span);
    } catch (error) {
      const answered =
        isOcifsError(error, "corrupt") || isOcifsError(error, "mismatch") || isOcifsError(error, "denied");
      if (!answered && !isOcifsError(error, "not-found")) throw error;
      if (!this.#inFlight.has(span)) this.#start(span);
      await this.#inFlight.get(span);
    }
  }

  override async bring(span: number, signal: AbortSignal): Promise<void> {
    throwIfAborted(signal, "fill");
    this.throwIfRefused();
    if (this.#o.store.present(span)) return;
    if (!this.#inFlight.has(span)) this.#start(span);
    await waitShared(this.#inFlight.get(span) ?? Promise.resolve(), "fill", signal);
  }

  override async fetchAhead(range: SpanRange, giveUp: AbortSignal): Promise<void> {
    if (this.refusal) return;
    const runs = this.#absentOf({ ...range, giveUp });
    // In the same account as guesses, which therefore rest while much of a profile is on its way.
    for (const run of runs) this.#speculation.enter(run);
    await Promise.all(runs.map((run) => this.#o.fetcher.ahead(this.#bytesOf(run), giveUp)));
  }

  protected override ended(): Promise<unknown> {
    return Promise.allSettled(this.#inFlight.values());
  }

  /** One request for each run of neighbouring spans, so that the range they need is asked for as a whole. */
  #startRuns(absent: readonly number[], plans: readonly Ahead[]): void {
    const todo = absent.filter((span) => !this.#inFlight.has(span));
    for (const run of neighboursIn(todo)) {
      // What is wanted next comes in the same request.
      const next = plans.find((plan) => plan.first === run.last + 1);
      const more = next ? { growTo: this.#bytesOf(next).end, giveUp: next.giveUp } : {};
      // The whole run's range is asked for at once; its spans are filled one by one as the bytes arrive.
      const fetched = this.#o.fetcher
        .need(this.#bytesOf(run), { ...more, signal: this.closing.signal })
        .then((lease) => lease.release());
      // Each span asks for its own bytes and meets the same failure there.
      fetched.catch(noteHandled);
      for (let span = run.first; span <= run.last; span++) this.#start(span);
    }
  }

  #start(span: number): void {
    const marks = new StepMarks();
    this.#marks.set(span, marks);
    const work = this.#makePresent(span, marks).finally(() => {
      this.#inFlight.delete(span);
      this.#marks.delete(span);
    });
    this.#inFlight.set(span, work);
    // A caller that left must not turn a failure into an unhandled rejection; those who wait get it.
    work.catch(noteHandled);
  }

  /** What is worth fetching of a plan: a span that is decoded may have lost its compressed bytes, and needs them no more. */
  #absentOf({ first, last, giveUp }: Ahead): Ahead[] {
    return neighboursIn(this.#o.store.absent(first, last)).map((run) => ({ ...run, giveUp }));
  }

  /** The bytes of the blob that neighbouring spans are made of. */
  #bytesOf({ first, last }: SpanRange): ByteRange {
    const { table } = this.#o;
    return { begin: table.compressedRange(first).begin, end: table.compressedRange(last).end };
  }

  async #makePresent(span: number, marks: StepMarks): Promise<void> {
    const { store, table } = this.#o;
    if (store.state(span) === SPAN_SUSPECT && (await store.checkSuspect(span, table.digest(span)))) return;
    const damage = await this.#fill(span, marks);
    if (damage === undefined) return;
    // What lies in the cache may have been damaged there; bytes fresh from the source decide.
    this.#o.onRefetch(span, damage.message);
    // Without a digest the span before it has been decoded as well, to check the window.
    const first = table.digest(span) || span === 0 ? span : span - 1;
    await this.#o.fetcher.discard(this.#bytesOf({ first, last: span }));
    const stillDamaged = await this.#fill(span, marks);
    if (stillDamaged) throw stillDamaged;
  }

  /** Resolves to what is wrong with the bytes that the span is made from; a failure to get them is thrown. */
  async #fill(span: number, marks: StepMarks): Promise<OcifsError | undefined> {
    const { table, checkWindows } = this.#o;
    const digest = table.digest(span);
    if (checkWindows && !digest && table.decodeInput(span).windowOffset >= 0 && !this.#goodWindows.has(span)) {
      const damage = await this.#decode(span - 1, true, marks);
      if (damage) return damage;
      this.#goodWindows.add(span);
    }
    const damage = await this.#decode(span, false, marks);
    if (!damage && !digest && span + 1 < table.spanCount) this.#goodWindows.add(span + 1);
    return damage;
  }

  async #decode(span: number, discard: boolean, marks: StepMarks): Promise<OcifsError | undefined> {
    for (;;) {
      const result = await this.#tryDecode(span, discard, marks);
      if (result !== "busy") return result === "done" ? undefined : result;
      await this.pauseWhileBusy();
    }
  }

  /** `busy`: somebody is at the span, or it was evicted meanwhile. An error: the bytes are wrong. */
  async #tryDecode(span: number, discard: boolean, marks: StepMarks): Promise<"done" | "busy" | OcifsError> {
    const { store, table, fetcher } = this.#o;
    const range = table.compressedRange(span);
    this.throwIfRefused();
    const lease = await fetcher.need(range, { signal: this.closing.signal, marks });
    try {
      // It may have come while the bytes did; nothing of such a blob must be written any more.
      this.throwIfRefused();
      using room = discard || this.#fleeting.delete(span) ? undefined : await reserveSpan(this.#o, span);
      const onTimes = ({ beganMs, filledMs, digestMs }: FillTimes) => {
        marks.mark("queue", beganMs);
        marks.mark("decode", filledMs - digestMs);
        marks.mark("digest", filledMs);
      };
      const input = {
        span,
        gzip: table.encoding === "gzip",
        fd: lease.fd,
        ...range,
        ...table.decodeInput(span),
        digest: table.digest(span),
        discard,
        onlyMemory: !discard && room === undefined,
      };
      const degraded = await store.fill(input, onTimes);
      if (degraded !== undefined) this.#o.onDegraded(degraded);
      return "done";
    } catch (error) {
      if (error === this.refusal) throw error;
      if (isOcifsError(error, "busy")) return "busy";
      if (isOcifsError(error, "corrupt") || isOcifsError(error, "mismatch")) return error;
      throw error;
    } finally {
      lease.release();
    }
  }
}

/** Marks a rejection as handled where the same failure reaches its callers another way. */
function noteHandled(_error: unknown): void {
  return;
}
