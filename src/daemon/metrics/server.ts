import { createServer, type Server, type ServerResponse } from "node:http";
import { messageOf, OcifsError } from "../../base/errors.js";
import { limits } from "../../base/limits.js";
import type { Log } from "../../base/log.js";
import type { MetricsAddress } from "./address.js";

/** `GET /metrics` over HTTP, until it is disposed of. Throws `busy` when the port is taken. */
export class MetricsServer implements AsyncDisposable {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async listen(
    { host, port }: MetricsAddress,
    metrics: () => Promise<string>,
    log: Log,
  ): Promise<MetricsServer> {
    const server = createServer({ requestTimeout: 10_000, headersTimeout: 10_000 });
    server.maxConnections = limits.controlConnections;
    server.on("request", ({ method, url }, response) => {
      const known = (method === "GET" || method === "HEAD") && url?.split("?")[0] === "/metrics";
      if (!known) return void response.writeHead(404).end("metrics are at /metrics\n");
      void answer(response, metrics, log);
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", (cause: NodeJS.ErrnoException) => {
        const code = cause.code === "EADDRINUSE" ? "busy" : "io";
        reject(new OcifsError(code, `metrics at ${host}:${port}: ${messageOf(cause)}`, { cause }));
      });
      server.listen(port, host, resolve);
    });
    server.on("error", (error) => log.warn("metrics cannot be offered", { reason: messageOf(error) }));
    const address = server.address();
    if (typeof address === "object") log.info("metrics are offered", { host, port: address?.port });
    return new MetricsServer(server);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

async function answer(response: ServerResponse, metrics: () => Promise<string>, log: Log): Promise<void> {
  try {
    const text = await metrics();
    response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" }).end(text);
  } catch (error) {
    log.warn("metrics cannot be had", { reason: messageOf(error) });
    response.writeHead(500).end();
  }
}
