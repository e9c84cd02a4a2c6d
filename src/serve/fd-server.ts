import { closeSync } from "node:fs";
import { rm } from "node:fs/promises";
import { systemErrnoOf } from "../base/errno.js";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { acceptSocket, connectSocket, listenSocket, type Peer, SocketPoller } from "../native/fdpass.js";
import { FdSocket } from "./fd-socket.js";

/** What a server makes of a connection; it closes the socket when it ends. */
export interface FdClientHandler {
  /** Serves it to its end. */
  run(): Promise<void>;
  close(): void;
}

export interface FdServerOptions {
  /** One for each client. */
  readonly open: (socket: FdSocket) => FdClientHandler;
  /** Without it: this user and root. */
  readonly admits?: (peer: Peer) => boolean;
  readonly log: Log;
}

/** A Unix socket that passes descriptors, and its clients. */
export class FdServer implements AsyncDisposable {
  readonly path: string;
  readonly #listener: number;
  readonly #poller: SocketPoller;
  readonly #o: FdServerOptions;
  readonly #connections = new Map<FdClientHandler, Promise<void>>();
  #accepting: Promise<void> | undefined;
  #closed: Promise<void> | undefined;

  private constructor(path: string, listener: number, poller: SocketPoller, options: FdServerOptions) {
    this.path = path;
    this.#listener = listener;
    this.#poller = poller;
    this.#o = options;
  }

  /** Takes the place of a socket whose server is dead; `busy` when one lives. */
  static async listen(path: string, options: FdServerOptions): Promise<FdServer> {
    await removeDead(path);
    const listener = listenSocket(path, limits.serveConnections);
    const server = new FdServer(path, listener, new SocketPoller(), options);
    server.#accepting = server.#accept();
    return server;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await rm(this.path, { force: true });
    this.#poller.forget(this.#listener);
    await this.#accepting;
    closeSync(this.#listener);
    for (const connection of this.#connections.keys()) connection.close();
    await Promise.all(this.#connections.values());
    this.#poller[Symbol.dispose]();
  }

  async #accept(): Promise<void> {
    while (await this.#poller.ready(this.#listener, "read")) {
      try {
        for (let peer = acceptSocket(this.#listener); peer; peer = acceptSocket(this.#listener)) this.#admit(peer);
      } catch (error) {
        // Out of descriptors, for one: those who wait are served when others have gone.
        this.#o.log.warn("a client cannot be accepted", { reason: messageOf(error) });
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  #admit(peer: Peer): void {
    const admits = this.#o.admits ?? (({ uid }: Peer) => uid === process.geteuid?.() || uid === 0);
    const allowed = admits(peer);
    if (!allowed || this.#connections.size >= limits.serveConnections) {
      this.#o.log.warn(allowed ? "too many clients; one was turned away" : "a client of another user was turned away", {
        pid: peer.pid,
        uid: peer.uid,
      });
      closeSync(peer.fd);
      return;
    }
    const connection = this.#o.open(new FdSocket(peer.fd, this.#poller));
    const running = connection
      .run()
      .catch((error: unknown) => this.#o.log.error("a connection has failed", { reason: messageOf(error) }))
      .finally(() => this.#connections.delete(connection));
    this.#connections.set(connection, running);
  }
}

async function removeDead(path: string): Promise<void> {
  try {
    closeSync(connectSocket(path));
  } catch (error) {
    const errno = systemErrnoOf(error);
    if (errno === 2) return;
    if (errno !== 111) throw error;
    await rm(path, { force: true });
    return;
  }
  throw new OcifsError("busy", `socket ${path}: another server listens there; end it or choose another path`);
}
