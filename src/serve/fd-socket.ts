import { closeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { systemErrnoOf } from "../base/errno.js";
import { isOcifsError, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { duplicateFd, MAX_FDS_AT_ONCE, receiveMessage, type SocketPoller, sendMessage } from "../native/fdpass.js";

const RECEIVE_BYTES = 64 << 10;
/** Between two tries while too many descriptors are under way; nothing tells when the other side has taken some. */
const REFS_POLL_MS = 10;

/** A connected Unix socket that carries bytes and descriptors, one reader and one writer at a time. */
export class FdSocket implements Disposable {
  readonly #poller: SocketPoller;
  /** Two descriptors of one socket, since each waits for one thing at a time. */
  readonly #readFd: number;
  readonly #writeFd: number;
  readonly #buffer = Buffer.allocUnsafe(RECEIVE_BYTES);
  /** How many descriptors the kernel was seen to take with one message. */
  #fdsAtOnce = MAX_FDS_AT_ONCE;
  #closed = false;

  /** Takes over the descriptor. */
  constructor(fd: number, poller: SocketPoller) {
    this.#readFd = fd;
    this.#writeFd = duplicateFd(fd);
    this.#poller = poller;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * The next bytes, a view until the next call, and the descriptors that came with them, which the caller closes. Undefined at the end.
   * Throws `corrupt` when descriptors were lost on the way.
   */
  async receive(): Promise<{ readonly bytes: Buffer; readonly fds: readonly number[] } | undefined> {
    while (!this.#closed) {
      const received = receiveMessage(this.#readFd, this.#buffer);
      if (received?.truncated)
        throw new OcifsError("corrupt", "socket: descriptors were lost on the way; raise the limit of open files");
      if (received && received.bytes === 0 && received.fds.length === 0) return undefined;
      if (received) return { bytes: this.#buffer.subarray(0, received.bytes), fds: received.fds };
      if (!(await this.#poller.ready(this.#readFd, "read"))) return undefined;
    }
    return undefined;
  }

  /**
   * Sends a message and its descriptors, which stay the caller's: the first batch with the message's first byte, each further one with
   * a `filler` byte after it. A part that was sent is not sent again. `timeout` when the other side takes nothing for too long.
   */
  async send(message: Uint8Array, fds: readonly number[] = [], filler = 0x20): Promise<void> {
    let left = fds;
    let bytes = message;
    do {
      const batch = left.slice(0, this.#fdsAtOnce);
      const taken = await this.#sendBatch(bytes, batch);
      left = left.slice(taken);
      bytes = Uint8Array.of(filler);
    } while (left.length > 0);
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#poller.forget(this.#readFd);
    this.#poller.forget(this.#writeFd);
    closeSync(this.#readFd);
    closeSync(this.#writeFd);
  }

  /** All of the bytes, and the descriptors or, if the kernel takes fewer, half of them. Resolves to how many. */
  async #sendBatch(bytes: Uint8Array, fds: readonly number[]): Promise<number> {
    let pending = fds;
    let taken = fds.length;
    const deadline = performance.now() + limits.serveStallMs;
    for (let at = 0; at < bytes.length; ) {
      if (this.#closed) throw new OcifsError("aborted", "socket: it is closed");
      let sent = 0;
      try {
        sent = sendMessage(this.#writeFd, bytes.subarray(at), pending);
      } catch (error) {
        if (isEinval(error) && pending.length > 1) {
          this.#fdsAtOnce = Math.max(1, Math.floor(pending.length / 2));
          pending = pending.slice(0, this.#fdsAtOnce);
          taken = pending.length;
          continue;
        }
        if (!isOcifsError(error, "busy")) throw error;
        if (performance.now() > deadline)
          throw new OcifsError("timeout", "socket: the client does not take its descriptors", { cause: error });
        await delay(REFS_POLL_MS);
        continue;
      }
      if (sent === 0) await this.#writable();
      else pending = [];
      at += sent;
    }
    return taken;
  }

  async #writable(): Promise<void> {
    const stalled = new AbortController();
    const timer = delay(limits.serveStallMs, false, { signal: stalled.signal, ref: false }).catch(() => true);
    const ready = await Promise.race([this.#poller.ready(this.#writeFd, "write"), timer]);
    stalled.abort();
    if (ready) return;
    this.#poller.forget(this.#writeFd);
    throw new OcifsError(this.#closed ? "aborted" : "timeout", "socket: the client does not read what it asked for");
  }
}

function isEinval(error: unknown): boolean {
  return systemErrnoOf(error) === 22;
}
