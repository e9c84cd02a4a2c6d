/** Sizes of requests to a registry. Three sizes are independent: decode span (1 MiB), fetch range (these), cache block (4 KiB). */
export const fetchSizes = {
  /** A request never grows beyond this by reading ahead: 8 MiB keeps a 100 Mbit/s link busy for most of a second. */
  maxRangeBytes: 8 << 20,
  /** The first step of growth once a reader is seen to read on. */
  firstGrowthBytes: 1 << 20,
  /** A file of up to this many compressed bytes is fetched whole once it is read here and there. */
  wholeFileBytes: 8 << 20,
  /** Bytes fetched ahead on a guess and not asked for so far, as a share of those that were asked for. */
  unprovenShare: 0.25,
  /** What an access profile has in one order is asked for in the order of the blob within this: neighbours come in one request. */
  profileBatchBytes: 2 << 20,
  /** Of a profile on its way at once: enough while the mount is made, when the answers wait for this process. */
  profileInFlightBytes: 4 << 20,
  /** Requests for it at once: they share the link, and what is wanted first should come first. */
  profileRequests: 6,
  /** Of a profile, or a quarter of it if that is less: fetched and not asked for by any reader so far. */
  profileUnprovenBytes: 4 << 20,
  /** Holes this close together are fetched with what lies between: a request costs more than these bytes. */
  joinGapBytes: 64 << 10,
  /** Readers of one layer that are told apart when looking for sequential use. */
  trackedReaders: 16,
  /** What a long request holds locked of what it is about to write; other processes wait for no more than this. */
  lockBytes: 8 << 20,
  /** Demand this close behind a prefetch that flows waits for it: asking anew takes as long, and a connection. */
  joinAheadBytes: 1 << 20,
  /** Bytes kept of transfers when the disk cannot be written. */
  memoryBytes: 32 << 20,
} as const;
