import { createHash } from "node:crypto";
import { isOcifsError, OcifsError, throwIfAborted } from "../base/errors.js";
import type { CompressedFile } from "../cache/compressed-file.js";
import type { CacheRoom } from "../cache/room.js";
import type { SpanStore } from "../native/layer.js";
import type { Digest } from "../oci/digest.js";
import { LinkedSignal, waitShared } from "../registry/abort.js";
import { Frontier } from "./frontier.js";
import { InFlightStream } from "./in-flight-stream.js";
import type { LayerMarks } from "./layer-marks.js";
import type { Pace } from "./pace.js";
import type { RangeFetcher } from "./range-fetcher.js";
import type { SpanProvider } from "./span-provider.js";
import type { SpanTable } from "./span-table.js";
import { digestsOfTar } from "./whole-blob.js";

/** What is read back and hashed at a time on the main thread: well under 1 ms of it. */
const HASH_CHUNK_BYTES = 256 << 10;

/** Passes over a tar of which something is evicted each time. */
const MAX_PASSES = 4;

export interface LayerFillOptions {
  readonly table: SpanTable;
  readonly store: SpanStore;
  readonly spans: SpanProvider;
  readonly fetcher: RangeFetcher;
  readonly compressed: CompressedFile;
  readonly marks: LayerMarks;
  readonly room: CacheRoom;
  /** Of the tar, where the index recorded it; it then maps all of the tar. */
  readonly tarDigest: Digest | undefined;
  /** The image's own word for the tar's digest, asked for when the index has none. */
  readonly fetchDiffId: ((signal: AbortSignal) => Promise<Digest | undefined>) | undefined;
  /** Checks a blob that is whole without a word to the network; it is marked, or the layer refused. */
  readonly checkBlob: () => Promise<void>;
}

/**
 * How a fill ended that need not be tried again. `compared`: the tar's digest was known beforehand. `refused`: blob or tar
 * are not what their digest says. `broken`: there is no disk cache, or this index cannot make a tar of a blob that is right.
 */
export type FillOutcome =
  | { readonly kind: "complete"; readonly tarDigest: Digest; readonly compared: boolean }
  | { readonly kind: "refused"; readonly of: "blob" | "tar"; readonly error: OcifsError }
  | { readonly kind: "broken"; readonly error: OcifsError };

/**
 * Makes a layer complete: its whole blob in `compressed`, every span in `data`, both digests checked, all of it flushed
 * and marked. Spans are decoded and hashed in order behind the download, one at a time, so that three of libuv's four threads
 * stay free for reads. Goes on from whatever the cache holds. What may pass is thrown: `network`, `timeout`, `no-space` (no
 * room in the cache), `busy` (others evict what comes), `io`, `aborted`.
 */
export class LayerFill {
  readonly #o: LayerFillOptions;
  readonly #pace: Pace;

  constructor(options: LayerFillOptions, pace: Pace) {
    this.#o = options;
    this.#pace = pace;
  }

  async run(signal: AbortSignal): Promise<FillOutcome> {
    await this.#askForRoom();
    const failing = new AbortController();
    using linked = new LinkedSignal(signal, failing.signal);
    const arrived = new Frontier();
    const blob = this.#bringBlob(arrived, linked.signal);
    const tar = this.#bringTar(arrived, blob, linked.signal);
    for (const part of [blob, tar]) part.catch((error: unknown) => failing.abort(error));
    await Promise.allSettled([blob, tar]);
    // The first failure, rather than that it cancelled the other part.
    if (failing.signal.aborted) throw failing.signal.reason;
    return (await blob) ?? (await tar);
  }

  /** For all that is missing, and at the cost of no mount: a fill that evicts what another has just brought would never end. */
  async #askForRoom(): Promise<void> {
    const { store, compressed, room } = this.#o;
    const { presentBytes, sizeBytes, diskOk } = store.stats();
    if (!diskOk) throw new OcifsError("no-space", "fill: the disk cache was given up; mount again once it has space");
    const blobBytes = this.#needsBlob() ? compressed.sizeBytes - compressed.presentBytes() : 0;
    const bytes = blobBytes + sizeBytes - presentBytes;
    if (bytes > 0 && !(await room.makeRoom(bytes))) {
      throw new OcifsError("no-space", `the cache is full: it has no room for ${bytes} bytes more of this layer`);
    }
  }

  /** A tar that is there as a whole, and has a digest to be checked by, does without. */
  #needsBlob(): boolean {
    const { spans, dataSpans } = this.#o.store.stats();
    return dataSpans < spans || this.#o.tarDigest === undefined;
  }

  async #bringBlob(arrived: Frontier, signal: AbortSignal): Promise<FillOutcome | undefined> {
    const { fetcher, marks, checkBlob, spans } = this.#o;
    if (!this.#needsBlob()) return undefined;
    if (fetcher.complete) {
      arrived.pass(fetcher.source.sizeBytes);
      if (!marks.blobVerified) await waitShared(checkBlob(), "fill", signal);
      if (spans.refusal) return { kind: "refused", of: "blob", error: spans.refusal };
      if (!marks.blobVerified) throw new OcifsError("busy", "fill: bytes of the blob were discarded as it was checked");
      return undefined;
    }
    const onProgress = (bytes: number) => arrived.pass(bytes);
    await using stream = InFlightStream.over(fetcher, { priority: "prefetch", pace: this.#pace, onProgress });
    try {
      await stream.finish(signal);
    } catch (error) {
      const { wrongDigest } = stream;
      if (error !== wrongDigest || wrongDigest === undefined) throw error;
      // Nobody waits for more of this blob.
      arrived.end();
      return { kind: "refused", of: "blob", error: wrongDigest };
    }
    await marks.markBlob();
    return undefined;
  }

  async #bringTar(
    arrived: Frontier,
    blob: Promise<FillOutcome | undefined>,
    signal: AbortSignal,
  ): Promise<FillOutcome> {
    const { store, marks, table, tarDigest, fetchDiffId, compressed } = this.#o;
    try {
      const got = await this.#hashTar(arrived, signal);
      const wrong = await blob;
      if (wrong) return wrong;
      let compared = true;
      if (tarDigest !== undefined) {
        if (got !== tarDigest) return refusedTar(`its digest is ${got}, the index recorded ${tarDigest}`);
      } else {
        const diffId = await fetchDiffId?.(signal);
        const { sizeBytes } = store.stats();
        const real = await digestsOfTar(compressed, table.encoding, sizeBytes, diffId, signal);
        if (real.prefix !== got)
          return refusedTar(`its first ${sizeBytes} bytes are not what the index makes of the blob`);
        if (diffId !== undefined && real.whole !== diffId) {
          return refusedTar(`its digest is ${real.whole}, the image's config says ${diffId}`);
        }
        compared = diffId !== undefined;
      }
      await marks.markTar(got);
      return { kind: "complete", tarDigest: got, compared };
    } catch (error) {
      if (!isOcifsError(error, "corrupt") && !isOcifsError(error, "mismatch")) throw error;
      // Of a blob that is wrong anything may be made; only with a right one it is the index that is wrong.
      return (await blob) ?? { kind: "broken", error };
    }
  }

  /** The sha256 of all that the table maps, at a time when all of it is in `data`. */
  async #hashTar(arrived: Frontier, signal: AbortSignal): Promise<Digest> {
    const { store } = this.#o;
    for (let passes = 0; passes < MAX_PASSES; passes++) {
      const { generation } = store.stats();
      const digest = await this.#hashSpans(arrived, signal);
      const after = store.stats();
      if (digest !== undefined && after.generation === generation && after.dataSpans === after.spans) return digest;
      // Spans that another process was writing to `data` when they were decoded here; it is done by now, or gone.
      store.forgetMemory();
    }
    throw new OcifsError("busy", "fill: spans are evicted as fast as they come; the cache needs more space");
  }

  async #hashSpans(arrived: Frontier, signal: AbortSignal): Promise<Digest | undefined> {
    const { spanCount } = this.#o.table;
    const hash = createHash("sha256");
    const buffer = new Uint8Array(HASH_CHUNK_BYTES);
    let next = spanCount > 0 ? this.#bring(0, arrived, signal) : Promise.resolve();
    for (let span = 0; span < spanCount; span++) {
      await next;
      // One is decoded while the one before it is hashed.
      next = span + 1 < spanCount ? this.#bring(span + 1, arrived, signal) : Promise.resolve();
      // Whoever awaits it meets its failure; a failure of this span comes first.
      next.catch(noteHandled);
      if (!(await this.#hashSpan(span, buffer, (bytes) => hash.update(bytes)))) {
        await Promise.allSettled([next]);
        throwIfAborted(signal, "fill");
        return undefined;
      }
    }
    return `sha256:${hash.digest("hex")}`;
  }

  async #bring(span: number, arrived: Frontier, signal: AbortSignal): Promise<void> {
    const { store, spans, table } = this.#o;
    if (!store.present(span)) await arrived.reached(table.compressedRange(span).end, signal);
    await this.#pace.released(signal);
    await spans.bring(span, signal);
  }

  /** False when the span was evicted before it could be read. */
  async #hashSpan(span: number, buffer: Uint8Array, take: (bytes: Uint8Array) => void): Promise<boolean> {
    const { store, table } = this.#o;
    const end = table.outStarts[span + 1] ?? 0;
    for (let at = table.outStarts[span] ?? 0; at < end; ) {
      const piece = buffer.subarray(0, Math.min(buffer.length, end - at));
      if ((await store.read(at, piece)) !== true) return false;
      take(piece);
      at += piece.length;
    }
    return true;
  }
}

function refusedTar(what: string): FillOutcome {
  return { kind: "refused", of: "tar", error: new OcifsError("mismatch", `tar of the layer: ${what}`) };
}

/** Marks a rejection as handled where the same failure reaches its callers another way. */
function noteHandled(_error: unknown): void {
  return;
}
