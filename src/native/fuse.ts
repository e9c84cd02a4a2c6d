import { addon, awaitNative, callNative } from "./addon.js";
import type { ErofsImage } from "./erofs.js";
import type { SpanStore } from "./layer.js";

export interface FuseStats {
  readonly requests: number;
  readonly reads: number;
  readonly readBytes: number;
  /** Reads that had to wait for missing spans. */
  readonly parked: number;
  readonly interrupted: number;
  /** Requests that were answered with EIO. */
  readonly errors: number;
  /** Bytes of reads that had to wait, part of `readBytes`. */
  readonly waitedBytes: number;
  /** Of reads that were answered at once. */
  readonly hitTime: DurationCounts;
  /** Of reads that had to wait, until they were answered. */
  readonly waitTime: DurationCounts;
}

/** How often something took how long. */
export interface DurationCounts {
  /** All together. */
  readonly seconds: number;
  /** Those that took less than `durationLimitSeconds(i)`, and not less than the one before. Empty: none at all. */
  readonly counts: readonly number[];
}

/** Upper ends of the buckets of DurationCounts; the last bucket has none (native/fuse/counters.h). */
export function durationLimitSeconds(bucket: number): number {
  return 2 ** (12 + bucket) / 1e9;
}

interface NativeFuseSession {
  stats(): FuseStats;
  resend(): void;
  fds(): number[];
  stop(answer: boolean): Promise<void>;
}

const native = addon as unknown as {
  socketPair(): [number, number];
  receiveFd(socketFd: number): Promise<number>;
  FuseSession: new (options: {
    fds: readonly number[];
    workers: number;
    files: FuseFiles;
    image: unknown;
    devices: unknown[];
    onMiss: (device: number, first: number, last: number, fileEndSpan: number, parkedMs: number) => void;
    onEnd: (errno: number) => void;
  }) => NativeFuseSession;
};

/**
 * What a session shows: the tree of the image, or files for a file system of the kernel's own to lie on: "index" and "1", "2", …
 * of the layers (`devices`), or all in one, in the image's flat address space (`flat`). See native/fuse/device_files.h.
 */
export type FuseFiles = "tree" | "devices" | "flat";

/** A connected pair of Unix sockets, close-on-exec. */
export function openSocketPair(): [number, number] {
  return callNative(() => native.socketPair());
}

/** The descriptor that the other side passes by SCM_RIGHTS; `io` when it closes without one. */
export function receiveFd(socketFd: number): Promise<number> {
  return awaitNative(() => native.receiveFd(socketFd));
}

/** A running FUSE session (native/fuse/session.h). */
export class FuseSession {
  readonly #session: NativeFuseSession;

  constructor(options: {
    /** Mounted /dev/fuse descriptor; taken over. */
    fds: readonly number[];
    workers: number;
    files: FuseFiles;
    image: ErofsImage;
    /** In the order of the tarindex' device slots. */
    devices: readonly SpanStore[];
    /** A read waits for spans [first, last] of `device` (1-based); the file goes on to `fileEndSpan`; since `parkedMs` of process.hrtime. */
    onMiss: (device: number, first: number, last: number, fileEndSpan: number, parkedMs: number) => void;
    /** All workers have left: 0 when unmounted or stopped, else the errno. */
    onEnd: (errno: number) => void;
  }) {
    this.#session = callNative(
      () =>
        new native.FuseSession({
          ...options,
          image: options.image.native,
          devices: options.devices.map((store) => store.handle),
        }),
    );
  }

  stats(): FuseStats {
    return callNative(() => this.#session.stats());
  }
  /** What another process needs to go on with this session: all of it, or requests are lost. The session's own. */
  fds(): number[] {
    return callNative(() => this.#session.fds());
  }
  /** Asks the kernel to send its unanswered requests again (Linux 6.9+). */
  resend(): void {
    callNative(() => this.#session.resend());
  }
  /**
   * Joins the workers. Unmount first: what waits is answered with EIO; or with `answer: false` left unanswered, for a process
   * that adopts the descriptor and calls `resend`.
   */
  stop({ answer = true }: { readonly answer?: boolean } = {}): Promise<void> {
    return awaitNative(() => this.#session.stop(answer));
  }
}
