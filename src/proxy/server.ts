import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { AnswerError } from "./answer-error.js";
import type { RequestHandler } from "./handler.js";
import { sendError } from "./send.js";

export interface ListenOptions {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  /** PEM. */
  readonly tls?: { readonly cert: string; readonly key: string };
}

/** The proxy's HTTP server: bounded connections, and an end that lets running answers finish. */
export class ProxyServer {
  readonly #server: Server;
  readonly #handler: RequestHandler;
  readonly #running = new Set<Promise<void>>();
  #stopping = false;

  private constructor(server: Server, handler: RequestHandler) {
    this.#server = server;
    this.#handler = handler;
    server.maxConnections = limits.proxyConnections;
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      const answering = this.#serve(request, response);
      this.#running.add(answering);
      void answering.finally(() => this.#running.delete(answering));
    });
  }

  static async listen(options: ListenOptions, handler: RequestHandler): Promise<ProxyServer> {
    const { host, port, tls } = options;
    const bounds = {
      maxHeaderSize: limits.httpHeaderBytes,
      headersTimeout: limits.proxyRequestMs,
      requestTimeout: limits.proxyRequestMs,
      // Node looks only every half minute by itself.
      connectionsCheckingInterval: Math.min(limits.proxyRequestMs, 5_000),
    };
    try {
      const server = tls === undefined ? createServer(bounds) : createTlsServer({ ...bounds, ...tls });
      const proxy = new ProxyServer(server, handler);
      server.listen(port, host);
      await once(server, "listening");
      return proxy;
    } catch (cause) {
      throw new OcifsError("io", `listen on ${host}:${port}: ${messageOf(cause)}`, { cause });
    }
  }

  get address(): AddressInfo {
    return this.#server.address() as AddressInfo;
  }

  /** No new requests; running ones may go on for `drainMs`, then their connections are cut. */
  async stop(drainMs: number): Promise<void> {
    this.#stopping = true;
    const closed = once(this.#server, "close");
    this.#server.close();
    const late = new AbortController();
    const drained = Promise.all(this.#running);
    await Promise.race([drained, delay(drainMs, undefined, { signal: late.signal }).catch(() => undefined)]);
    late.abort();
    this.#server.closeAllConnections();
    await Promise.all(this.#running);
    await closed;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const left = new AbortController();
    const ended = once(response, "close");
    response.once("close", () => left.abort(new OcifsError("aborted", "answer: the client closed the connection")));
    // A client that breaks off is its own affair.
    response.on("error", () => response.destroy());
    if (this.#stopping) {
      response.setHeader("connection", "close");
      sendError(response, new AnswerError(503, "UNKNOWN", "the proxy is being stopped", { "retry-after": "1" }));
      return;
    }
    await this.#handler.handle(request, response, left.signal);
    // What is written is not sent yet.
    await ended;
  }
}
