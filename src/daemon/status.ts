import type { DurationCounts } from "../native/fuse.js";

/** What one daemon answers to `status`. */
export interface DaemonStatus {
  readonly pid: number;
  readonly version: string;
  /** Program and arguments, as `ocifs upgrade` names them. */
  readonly program: readonly string[];
  /** Null when nobody starts it again. */
  readonly keeperPid: number | null;
  /** Takes mounts from others: see shared-daemon.ts. */
  readonly shared: boolean;
  readonly mounts: readonly MountStatus[];
  /** How often its keeper had to start it again. */
  readonly restarts: number;
  /** Resident memory. */
  readonly rssBytes: number;
}

/** What `ocifs status` shows of one mount. Sizes are bytes. */
export interface MountStatus {
  readonly pid: number;
  /** Of the process that starts the daemon again when it dies; null when there is none. */
  readonly keeperPid: number | null;
  /** How often it had to. */
  readonly restarts: number;
  readonly version: string;
  readonly source: string;
  readonly mountpoint: string;
  /** The mount namespace that the mountpoint is in, "mnt:[4026531841]"; null when it is the daemon's own. */
  readonly mountNamespace: string | null;
  readonly manifestDigest: string | null;
  readonly driver: string;
  readonly driverReason: string;
  readonly state: "ready" | "degraded";
  /** Why it is degraded, in one sentence. */
  readonly problem: string | null;
  /** Since when it is degraded for whatever reason; ISO 8601. */
  readonly degradedSince: string | null;
  readonly mountedAt: string;
  /** Received by this daemon from the source, all layers. */
  readonly bytesFetched: number;
  /** Compressed size of all layers. */
  readonly bytesTotal: number;
  /** What this mount was told that its cache may take up on disk; null when it was told nothing. */
  readonly cacheSizeBytes: number | null;
  readonly layers: readonly LayerStatus[];
  readonly requests: number;
  readonly reads: number;
  readonly readBytes: number;
  /** Reads that waited for the network or a decode. */
  readonly readMisses: number;
  /** Share of reads that were answered at once, 0 to 1; null before the first read. */
  readonly hitRatio: number | null;
  readonly interrupted: number;
  readonly errors: number;
  /** Bytes of reads that waited, part of `readBytes`. */
  readonly waitedBytes: number;
  /** How long reads took that were answered at once, and those that waited. */
  readonly hitTime: DurationCounts;
  readonly waitTime: DurationCounts;
  /** Reads that failed, by the cause's OcifsErrorCode. */
  readonly readErrors: Readonly<Record<string, number>>;
  readonly cacheDirectory: string;
  /** Resident memory of the daemon. */
  readonly rssBytes: number;
}

export interface LayerStatus {
  readonly digest: string;
  readonly blobBytes: number;
  /** Received by this daemon from the source. */
  readonly fetchedBytes: number;
  readonly fetchRequests: number;
  readonly fetchRetries: number;
  /** Compressed bytes in the cache. */
  readonly cachedBytes: number;
  readonly spans: number;
  readonly cachedSpans: number;
  readonly sizeBytes: number;
  /** "disk", or "memory" when the cache cannot be written. */
  readonly cache: "disk" | "memory";
  /** All of it is decoded in the cache and its digest is right: it needs no network any more. */
  readonly complete: boolean;
  /** All of the blob is in the cache and its digest is right. */
  readonly blobVerified: boolean;
  readonly fill: FillStatus;
}

/** How the background fill of one layer stands. */
export interface FillStatus {
  /**
   * off: nobody asked for one. waiting: for its turn, or to be tried again. paused: reads go first. failed: digests are
   * wrong, so trying again is of no use.
   */
  readonly state: "off" | "waiting" | "filling" | "paused" | "done" | "failed";
  /** Why it waits, failed, or is done with less than usual, in one sentence. */
  readonly reason: string | null;
  /** Compressed bytes to be fetched. */
  readonly bytesLeft: number;
}
