import { addon, callNative } from "./addon.js";

/** Who connected, as the kernel knows it. */
export interface Peer {
  readonly fd: number;
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface ReceivedMessage {
  /** 0: the other side has ended. */
  readonly bytes: number;
  /** The kernel threw descriptors away (MSG_CTRUNC): nothing that follows can be told apart any more. */
  readonly truncated: boolean;
  readonly fds: readonly number[];
}

/** What to wait for: that it can be read, or written, or (also with these two) that it has an error or its end to tell. */
export type PolledEvent = "read" | "write" | "broken";

interface NativePoller {
  arm(fd: number, what: PolledEvent): void;
  forget(fd: number): void;
  close(): void;
}

const native = addon as unknown as {
  listenSocket(path: string, backlog: number): number;
  acceptSocket(fd: number): Peer | undefined;
  connectSocket(path: string): number;
  sendMessage(fd: number, bytes: Uint8Array, fds: readonly number[]): number;
  receiveMessage(fd: number, into: Uint8Array): ReceivedMessage | undefined;
  dupFd(fd: number): number;
  pipeFds(): [number, number];
  SocketPoller: new (onReady: (fd: number) => void) => NativePoller;
};

/** SCM_MAX_FD: descriptors the kernel takes with one message. */
export const MAX_FDS_AT_ONCE = 253;

/** A listening Unix socket of mode 0600, non-blocking. There must be nothing at `path`. */
export function listenSocket(path: string, backlog: number): number {
  return callNative(() => native.listenSocket(path, backlog));
}

/** The next client, or undefined when none waits. */
export function acceptSocket(fd: number): Peer | undefined {
  return callNative(() => native.acceptSocket(fd));
}

export function connectSocket(path: string): number {
  return callNative(() => native.connectSocket(path));
}

/**
 * Sends what fits now; resolves to how many bytes that were, 0 when the socket must become writable first. Descriptors go with the first
 * byte, and were sent when the answer is not 0. `busy`: too many are under way to readers that do not read (ETOOMANYREFS).
 */
export function sendMessage(fd: number, bytes: Uint8Array, fds: readonly number[]): number {
  return callNative(() => native.sendMessage(fd, bytes, fds));
}

/** Takes what has come; undefined when there is nothing yet. Descriptors close on exec and belong to the caller. */
export function receiveMessage(fd: number, into: Uint8Array): ReceivedMessage | undefined {
  return callNative(() => native.receiveMessage(fd, into));
}

/** A second descriptor of the same open file. */
export function duplicateFd(fd: number): number {
  return callNative(() => native.dupFd(fd));
}

/** Both ends of a pipe, reading and writing; they close on exec. */
export function openPipe(): { readonly readFd: number; readonly writeFd: number } {
  const [readFd, writeFd] = callNative(() => native.pipeFds());
  return { readFd, writeFd };
}

/** Waits for many descriptors on one thread. Keeps the process alive until it is closed. */
export class SocketPoller implements Disposable {
  readonly #native: NativePoller;
  readonly #waiting = new Map<number, (ready: boolean) => void>();

  constructor() {
    this.#native = callNative(
      () =>
        new native.SocketPoller((fd) => {
          const settle = this.#waiting.get(fd);
          this.#waiting.delete(fd);
          settle?.(true);
        }),
    );
  }

  /** Resolves to true when `fd` is ready (or broken), to false when it was given up with `forget`. One wait for each descriptor. */
  ready(fd: number, what: PolledEvent): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.set(fd, resolve);
      try {
        callNative(() => this.#native.arm(fd, what));
      } catch (error) {
        this.#waiting.delete(fd);
        reject(error);
      }
    });
  }

  /** Ends a wait; to be called before the descriptor is closed. */
  forget(fd: number): void {
    this.#native.forget(fd);
    const settle = this.#waiting.get(fd);
    this.#waiting.delete(fd);
    settle?.(false);
  }

  [Symbol.dispose](): void {
    for (const fd of [...this.#waiting.keys()]) this.forget(fd);
    this.#native.close();
  }
}
