/** Grants bytes of the cache before they are written, so that the cache stays under its limit also while it is being filled. */
export interface CacheRoom {
  /**
   * True when `bytes` more may be written now; what nobody needs is evicted for them. False when the limit leaves no room
   * whatever is evicted: the caller then does without the disk.
   */
  tryReserve(bytes: number): Promise<boolean>;
}

/** A cache without a limit. */
export const unlimitedRoom: CacheRoom = { tryReserve: async () => true };
