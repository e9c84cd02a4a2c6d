import { addon, awaitNative, callNative } from "./addon.js";
import type { SpanStore } from "./layer.js";

export interface EventStats {
  /** Times that the kernel asked before it read, and the bytes it wanted. */
  readonly events: number;
  readonly bytes: number;
  /** Of those, the ones that had to wait for missing spans. */
  readonly parked: number;
  /** Refused: EIO for the reader. */
  readonly denied: number;
}

/** What another process needs to go on answering. */
export interface EventFds {
  readonly groupFd: number;
  readonly tableFd: number;
  readonly indexFd: number;
}

interface NativeEventWatcher {
  stats(): EventStats;
  fds(): EventFds;
  refuse(): void;
  stop(answer: boolean): Promise<void>;
}

const native = addon as unknown as {
  createEventGroup(): { groupFd: number; tableFd: number };
  markData(groupFd: number, fd: number): void;
  markRelease(groupFd: number, fd: number): void;
  EventWatcher: new (
    options: EventFds & {
      guardPid: number | undefined;
      adopted: boolean;
      devices: unknown[];
      checked: readonly boolean[];
      onMiss: (device: number, first: number, last: number) => void;
      onReleased: () => void;
      onGuardGone: () => void;
    },
  ) => NativeEventWatcher;
};

/**
 * A fanotify group, and the table of what was read from it and not answered; both the caller's. `unsupported` where the kernel has no
 * events before reads (Linux 6.14), or this process may not have them.
 */
export function createEventGroup(): { readonly groupFd: number; readonly tableFd: number } {
  return callNative(() => native.createEventGroup());
}

/** Reads of this file through descriptors that are opened from now on raise events. `unsupported` when its file system has none. */
export function markData(groupFd: number, fd: number): void {
  callNative(() => native.markData(groupFd, fd));
}

/** An event when somebody closes this file, which he could only read. */
export function markRelease(groupFd: number, fd: number): void {
  callNative(() => native.markRelease(groupFd, fd));
}

/** Answers the events of one mount (native/fanotify/watcher.h). */
export class EventWatcher {
  readonly #watcher: NativeEventWatcher;

  constructor(
    /** Taken over, also when it throws. */
    fds: EventFds,
    options: {
      /** The process that keeps the same descriptors; undefined when it is one that does not end. */
      readonly guardPid: number | undefined;
      /** A process before this one had the mount: what it left comes first, and the kernel may have let go meanwhile. */
      readonly adopted: boolean;
      /** In the order of the tarindex' device slots. */
      readonly devices: readonly SpanStore[];
      /** Of each device: its spans are known to be right one by one, so that it is not watched any more when it has them all. */
      readonly checked: readonly boolean[];
      /** A read waits for spans [first, last] of `device` (1-based). */
      readonly onMiss: (device: number, first: number, last: number) => void;
      /** The kernel has let go of the index and the layers. */
      readonly onReleased: () => void;
      /** What is missing is refused from now on. */
      readonly onGuardGone: () => void;
    },
  ) {
    this.#watcher = callNative(
      () => new native.EventWatcher({ ...fds, ...options, devices: options.devices.map((store) => store.handle) }),
    );
  }

  stats(): EventStats {
    return callNative(() => this.#watcher.stats());
  }
  /** The watcher's own. */
  fds(): EventFds {
    return callNative(() => this.#watcher.fds());
  }
  /** What is missing is EIO from now on; what is there can be read. */
  refuse(): void {
    callNative(() => this.#watcher.refuse());
  }
  /** What waits is EIO, or with `answer: false` waits for the process that goes on with the descriptors. Closes them here. */
  stop({ answer = true }: { readonly answer?: boolean } = {}): Promise<void> {
    return awaitNative(() => this.#watcher.stop(answer));
  }
}
