import { closeSync } from "node:fs";
import { join } from "node:path";
import { isOcifsError, OcifsError } from "../base/errors.js";
import type { FdSocket } from "../serve/fd-socket.js";
import { MessageSplitter } from "../serve/message-splitter.js";
import type { MountConfig, ProgressMessage, Readiness } from "./mount-config.js";
import type { PathPlace } from "./path-places.js";

/** Where the shared daemon takes mounts; not `*.sock`, which control sockets are. */
export function handoverSocketPath(runtimeDirectory: string): string {
  return join(runtimeDirectory, "shared.mounts");
}

/**
 * How a mount helper hands a mount to the shared daemon: JSON objects over a Unix socket, in this order. The password goes this way and
 * no other.
 *
 * - daemon: `hello`; a helper of another version leaves.
 * - helper: `mount`.
 * - daemon: `progress`, any number of times; then `makeMount`, since all that can be wrong with the image is known by now.
 * - helper: `made`, and the descriptor of /dev/fuse with it.
 * - daemon: a `Readiness`. Until then a helper that leaves takes the mount along.
 *
 * In place of `makeMount` and what follows: `refused`, which says nothing about the image, or a `Readiness` that is an error.
 */
export type DaemonMessage =
  | { readonly hello: Hello }
  | ProgressMessage
  | { readonly makeMount: true }
  | { readonly refused: string }
  | Readiness;

export type HelperMessage =
  | { readonly mount: MountConfig; readonly places: readonly PathPlace[] }
  | { readonly made: { readonly device?: string; readonly namespace: string } };

export interface Hello {
  readonly version: string;
  readonly pid: number;
  /** The daemon's: paths are meant there. */
  readonly mountNamespace: string;
}

/** A message, with the descriptors that came with it, which are the receiver's. */
export interface Received<T> {
  readonly message: T;
  readonly fds: readonly number[];
}

/** Whole messages over a socket, and word of its end at once, also while nobody waits for a message. */
export class HandoverChannel<Out, In> implements Disposable {
  readonly #socket: FdSocket;
  readonly #splitter = new MessageSplitter();
  readonly #gone = new AbortController();
  readonly #queue: Received<In>[] = [];
  #fds: number[] = [];
  #wake: () => void = () => undefined;
  #taken: () => void = () => undefined;
  #closed = false;
  readonly #reading: Promise<void>;

  /** Takes the socket over. */
  constructor(socket: FdSocket) {
    this.#socket = socket;
    this.#reading = this.#read();
  }

  /** Fires when the other side has closed the socket or broken the rules. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** The next message; `network` when the other side has left without one. */
  async receive(): Promise<Received<In>> {
    while (this.#queue.length === 0) {
      if (this.#gone.signal.aborted) throw this.#gone.signal.reason;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const next = this.#queue.shift() as Received<In>;
    this.#taken();
    return next;
  }

  /** The descriptors stay the caller's. */
  async send(message: Out, fds: readonly number[] = []): Promise<void> {
    await this.#socket.send(Buffer.from(`${JSON.stringify(message)}\n`), fds);
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.#socket[Symbol.dispose]();
    this.#taken();
    for (const { fds } of this.#queue.splice(0)) for (const fd of fds) closeSync(fd);
  }

  /** When nothing comes any more. */
  get ended(): Promise<void> {
    return this.#reading;
  }

  async #read(): Promise<void> {
    let why = new OcifsError("network", "handover: the other side has closed the socket");
    try {
      for (let got = await this.#socket.receive(); got; got = await this.#socket.receive()) {
        this.#fds.push(...got.fds);
        for (const bytes of this.#splitter.push(Buffer.from(got.bytes))) this.#take(bytes);
        if (this.#fds.length > 1) throw new OcifsError("limit", "handover: more than one descriptor at once");
        // No more is taken in than somebody wants, so nothing piles up here.
        while (this.#queue.length > 0 && !this.#closed) await new Promise<void>((resolve) => (this.#taken = resolve));
      }
    } catch (error) {
      why = isOcifsError(error)
        ? error
        : new OcifsError("corrupt", "handover: what came is no message", { cause: error });
    } finally {
      for (const fd of this.#fds.splice(0)) closeSync(fd);
      this.#gone.abort(why);
      this.#wake();
    }
  }

  #take(bytes: Buffer): void {
    const message = JSON.parse(bytes.toString("utf8")) as In;
    this.#queue.push({ message, fds: this.#fds.splice(0) });
    this.#wake();
  }
}
