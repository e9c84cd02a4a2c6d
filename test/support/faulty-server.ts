import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";

export interface ReceivedRequest {
  readonly method: string;
  /** Path and query. */
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  /** Empty for GET. */
  readonly body: string;
}

export type Handler = (request: ReceivedRequest, response: ServerResponse) => void;

export interface FaultyServer {
  /** `127.0.0.1:PORT`. */
  readonly host: string;
  /** In the order of arrival. */
  readonly requests: ReceivedRequest[];
  /** Replaces the script. */
  handle(handler: Handler): void;
  /** Ends all connections too. */
  stop(): Promise<void>;
}

/** An HTTP server on a free loopback port that does whatever its script says, however wrong. */
export async function startFaultyServer(
  handler: Handler,
  tls?: { readonly key: string; readonly cert: string },
): Promise<FaultyServer> {
  let current = handler;
  const requests: ReceivedRequest[] = [];
  const listener: RequestListener = (message, response) => {
    const chunks: Buffer[] = [];
    message.on("data", (chunk: Buffer) => chunks.push(chunk));
    message.on("end", () => {
      const { method = "GET", url = "/", headers } = message;
      const request = { method, url, headers, body: Buffer.concat(chunks).toString("utf8") };
      requests.push(request);
      current(request, response);
    });
  };
  const server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    host: `127.0.0.1:${port}`,
    requests,
    handle: (next) => {
      current = next;
    },
    stop: async () => {
      if (!server.listening) return;
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/** Answers a GET of `bytes` as a good server does, with ranges. */
export function serveBytes(bytes: Uint8Array, request: ReceivedRequest, response: ServerResponse): void {
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
  if (range === null) {
    response.writeHead(200, { "content-length": bytes.length });
    response.end(bytes);
    return;
  }
  const start = Number(range[1]);
  const end = Math.min(Number(range[2]) + 1, bytes.length);
  if (start >= end) {
    response.writeHead(416, { "content-range": `bytes */${bytes.length}` });
    response.end();
    return;
  }
  response.writeHead(206, {
    "content-length": end - start,
    "content-range": `bytes ${start}-${end - 1}/${bytes.length}`,
  });
  response.end(bytes.subarray(start, end));
}

/** Answers with JSON; `headers` may override the type. */
export function serveJson(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
) {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  response.end(typeof body === "string" ? body : JSON.stringify(body));
}
