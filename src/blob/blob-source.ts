import type { Step } from "../base/steps.js";
import type { Digest } from "../oci/digest.js";
import type { TransferCounts } from "../registry/transfer-stats.js";

export interface FetchOptions {
  readonly signal?: AbortSignal;
  /** Demand requests overtake prefetch requests that wait for a connection. Default: demand. */
  readonly priority?: "demand" | "prefetch";
  /** Called when the request waits for nothing here any more; sources that always answer at once may leave it out. */
  readonly onStart?: () => void;
  /** Called when a step ends that the bytes had to wait for; sources that always answer at once may leave it out. */
  readonly onStep?: (step: Step) => void;
  /** When somebody began to wait for these bytes (`performance.now()`): a wait that began before the call is part of the source's timeout. */
  readonly waitingSinceMs?: number;
  /** The caller is done with each chunk when it asks for the next: a source may put that into the same memory. */
  readonly transientChunks?: boolean;
}

/**
 * Where the bytes of one blob come from. Implementations: a registry, a file, an OCI layout.
 * Bytes are as served; who keeps them checks the digest.
 */
export interface BlobSource extends AsyncDisposable {
  readonly digest: Digest;
  /** From the manifest's descriptor, or the file's size. */
  readonly sizeBytes: number;
  /** For messages and logs; holds no secret. */
  readonly description: string;
  /** False once it turned out that every request delivers the whole blob: better fetch all of it in one go. */
  readonly rangesSupported: boolean;
  /** What was transferred so far. */
  stats(): TransferCounts;

  /**
   * The bytes [offset, offset + length), as chunks in order. The chunks add up to exactly `length`, or iteration throws
   * (`network` when what was delivered so far is right but incomplete and trying again may help). A range outside
   * [0, sizeBytes] is `usage`. Retries and their limits are the implementation's; nothing is delivered twice.
   * Ending the iteration early ends the transfer.
   */
  fetchRange(offset: number, length: number, options?: FetchOptions): AsyncIterable<Uint8Array>;
}
