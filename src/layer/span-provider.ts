import type { OcifsError } from "../base/errors.js";

/** Makes spans of a layer present in its SpanStore. Implementations: span by span, or the whole layer in one pass. */
export interface SpanProvider extends AsyncDisposable {
  /**
   * Resolves when all spans of [first, last] are present, rejects with the first failure. `fileEndSpan` is how far reading
   * ahead can make sense. A cancelled caller leaves; the work goes on for others. `tries` counts how often this caller has
   * found spans gone before it could read them: after a few they are kept in memory, where no other process gives them up.
   */
  ensure(
    first: number,
    last: number,
    options?: { readonly fileEndSpan?: number; readonly signal?: AbortSignal; readonly tries?: number },
  ): Promise<void>;
  /** Until disposal none of these spans is given up for want of room: for who reads them next. */
  hold(first: number, last: number): Disposable;
  holds(span: number): boolean;
  /**
   * Makes one span present for nobody who waits for it: without reading ahead, and without a word about how the layer is
   * read. Its compressed bytes should be here: those that are not are fetched as demand.
   */
  bring(span: number, signal: AbortSignal): Promise<void>;
  /** Why nothing of this blob is served any more. */
  readonly refusal: OcifsError | undefined;
  /** From now on every read of missing spans fails with this error: the blob is not what it should be. */
  refuse(error: OcifsError): void;
}
