import type { SpanUse } from "../native/layer.js";

/** Room that was granted. Dispose of it once the bytes are in their files, or will never be. */
export interface Reservation extends Disposable {
  readonly sizeBytes: number;
}

/**
 * What this process has open of one blob, and can give up. Nothing here waits: whatever somebody reads, waits for or writes stays,
 * since that somebody may be waiting for room.
 */
export interface CacheHolder {
  /** Gives back up to about `bytes` of `compressed`, first what has been decoded. Resolves to the bytes given back. */
  giveUpCompressed(bytes: number): Promise<number>;
  /** Spans of `data` that can be given up, least recently used first, at most `count`. */
  oldestSpans(count: number): readonly SpanUse[];
  /** Gives up these spans. Resolves to the bytes given back. */
  giveUpSpans(spans: readonly number[]): Promise<number>;
}

/** Grants bytes of the cache before they are written, so that the cache stays under its limit also while it is being filled. */
export interface CacheRoom {
  /** How much a long writer should reserve at a time. */
  readonly stepBytes: number;
  /**
   * Room for `bytes` more; what nobody needs is evicted for them. Undefined when the limit leaves no room whatever is evicted:
   * the caller then does without the disk, this time. Never waits for anything that may wait for room.
   */
  reserve(bytes: number): Promise<Reservation | undefined>;
  /**
   * True when `bytes` more would find room; for who is about to write much that nobody waits for. Nothing is reserved, and nothing
   * is evicted but blobs that no process uses.
   */
  makeRoom(bytes: number): Promise<boolean>;
  /** From now until disposal the holder is asked to give up what it can when room is short. */
  register(holder: CacheHolder): Disposable;
}

/** Where nothing is kept on disk, or nothing limits it. */
export const unlimitedRoom: CacheRoom = {
  stepBytes: 8 << 20,
  reserve: async (sizeBytes) => ({ sizeBytes, [Symbol.dispose]: () => undefined }),
  makeRoom: async () => true,
  register: () => ({ [Symbol.dispose]: () => undefined }),
};
