import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { BlobSource } from "../blob/blob-source.js";
import { algorithmOf, type Digest } from "../oci/digest.js";
import { type DigestStream, openDigestStream } from "../oci/digest-stream.js";

/** Bytes per piece: few enough calls to the pool thread, little enough to fit its cache. */
const pieceBytes = 1 << 20;

/**
 * A whole blob, fetched once in order, in pieces of 1 MiB, one piece ahead of the reader. A piece is valid until the next
 * but one is asked for. The reader passes each piece to `account` once, when it suits; that hashes it.
 */
export class BlobInput implements AsyncDisposable {
  readonly #source: BlobSource;
  readonly #abort = new AbortController();
  readonly #signal: AbortSignal | undefined;
  readonly #pieces: AsyncGenerator<Uint8Array>;
  readonly #hash: DigestStream | undefined;
  #ahead: Promise<PromiseSettledResult<IteratorResult<Uint8Array>>>;
  #accountedBytes = 0;
  #ended = false;

  /** `verified`: the source ends without an error only when the digest of all it gave is right, so it is not hashed here. */
  constructor(source: BlobSource, signal: AbortSignal | undefined, verified = false) {
    this.#source = source;
    this.#signal = signal;
    this.#hash = verified ? undefined : openDigestStream(algorithmOf(source.digest));
    const signals = signal === undefined ? [this.#abort.signal] : [this.#abort.signal, signal];
    const options = { signal: AbortSignal.any(signals), transientChunks: true };
    this.#pieces = inPieces(source.fetchRange(0, source.sizeBytes, options));
    this.#ahead = this.#fetchAhead();
  }

  /** Bytes that were passed to `account`. */
  get accountedBytes(): number {
    return this.#accountedBytes;
  }

  /** The next piece, or undefined at the end. */
  async next(): Promise<Uint8Array | undefined> {
    throwIfAborted(this.#signal, `index create ${this.#source.description}`);
    const result = await this.#ahead;
    if (result.status === "rejected") throw result.reason;
    if (result.value.done === true) {
      this.#ended = true;
      return undefined;
    }
    this.#ahead = this.#fetchAhead();
    return result.value.value;
  }

  /** The piece is hashed on a pool thread until the promise settles, which comes before the next but one is asked for. */
  async account(piece: Uint8Array): Promise<void> {
    this.#accountedBytes += piece.length;
    await this.#hash?.update(piece);
  }

  /** Fetches and hashes what is left, to know whether the blob is the right one. */
  async drain(): Promise<void> {
    while (!this.#ended) {
      const piece = await this.next();
      if (piece !== undefined) await this.account(piece);
    }
  }

  /** The digest of all bytes; throws `mismatch` when it or the size is not the source's. Call once, after the end. */
  verify(): Digest {
    const { digest, sizeBytes, description } = this.#source;
    if (this.#accountedBytes !== sizeBytes) {
      throw new OcifsError(
        "mismatch",
        `index create ${description}: got ${this.#accountedBytes} bytes, want ${sizeBytes}`,
      );
    }
    const got = this.#hash?.finish() ?? digest;
    if (got !== digest) {
      throw new OcifsError("mismatch", `index create ${description}: the content's digest is ${got}, want ${digest}`);
    }
    return got;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#ahead;
    await this.#pieces.return(undefined);
  }

  /** Settled, so that a piece nobody waits for any more does not end the process. */
  async #fetchAhead(): Promise<PromiseSettledResult<IteratorResult<Uint8Array>>> {
    const [result] = await Promise.allSettled([this.#pieces.next()]);
    return result;
  }
}

/** Copies chunks of any size into two buffers in turn. */
async function* inPieces(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let filling = new Uint8Array(pieceBytes);
  let other = new Uint8Array(pieceBytes);
  let filled = 0;
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; ) {
      const used = Math.min(chunk.length - at, pieceBytes - filled);
      filling.set(chunk.subarray(at, at + used), filled);
      at += used;
      filled += used;
      if (filled < pieceBytes) continue;
      yield filling;
      [filling, other] = [other, filling];
      filled = 0;
    }
  }
  if (filled > 0) yield filling.subarray(0, filled);
}
