import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { pipeline, Readable } from "node:stream";
import { serveDocuments } from "../support/image-documents.js";
import type { Layer } from "./content.js";

/** What is sent at a time; between two pieces a client that left is noticed. */
const PIECE_BYTES = 64 << 10;

/** What the registry does to a request for a layer's bytes. */
export type Fault = "none" | "stall" | "reset" | "500" | "429" | "401" | "short" | "stall-in-body";

/** Bytes [begin, end) of a layer that one request was sent. */
export interface Sent {
  readonly layer: Layer;
  readonly begin: number;
  end: number;
}

export interface Lifetimes {
  /** Of a token; without it nobody needs one. */
  readonly tokenMs?: number;
  /** Of a URL that blobs are redirected to; without it the registry serves them itself. */
  readonly urlMs?: number;
  /** The URL says when it expires. */
  readonly urlTells?: boolean;
}

/** A registry of images of one layer each, on one loopback port for all its life, that can be told to misbehave. */
export class TortureRegistry implements AsyncDisposable {
  /** Chosen anew for each request for a layer's bytes. */
  fault: () => Fault = () => "none";
  readonly sent: Sent[] = [];
  readonly faults = new Map<Fault, number>();
  tokensIssued = 0;
  urlsIssued = 0;
  /** Requests that came with a token or a URL that had expired. */
  expired = 0;
  readonly #layers: ReadonlyMap<string, Layer>;
  readonly #lifetimes: Lifetimes;
  readonly #tokens = new Map<string, number>();
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;
  #connections = 0;
  /** Every other connection is reset as soon as it asks for anything. */
  resetsConnections = false;

  private constructor(layers: ReadonlyMap<string, Layer>, lifetimes: Lifetimes) {
    this.#layers = layers;
    this.#lifetimes = lifetimes;
  }

  /** `images`: repository → its layer. */
  static async start(images: ReadonlyMap<string, Layer>, lifetimes: Lifetimes = {}): Promise<TortureRegistry> {
    const registry = new TortureRegistry(images, lifetimes);
    await registry.up();
    return registry;
  }

  reference(repository: string): string {
    return `127.0.0.1:${this.#port}/${repository}:v1`;
  }

  /** Listens, at first on a free port and then always on that one. */
  async up(): Promise<void> {
    if (this.#server) return;
    const server = createServer((request, response) => this.#serve(request, response));
    server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
      const odd = this.#connections++ % 2 === 1;
      socket.once("data", () => odd && this.resetsConnections && socket.resetAndDestroy());
    });
    server.listen(this.#port, "127.0.0.1");
    await once(server, "listening");
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** As if it were killed: connections are reset, then nobody listens. */
  async down(): Promise<void> {
    const server = this.#server;
    if (!server) return;
    this.#server = undefined;
    const closed = once(server, "close");
    server.close();
    for (const socket of this.#sockets) socket.resetAndDestroy();
    await closed;
  }

  /** Ends answers that stall. */
  cutConnections(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    request.resume();
    response.on("error", () => response.destroy());
    const url = new URL(request.url ?? "/", "http://registry");
    if (url.pathname === "/token") this.#giveToken(response);
    else if (url.pathname.startsWith("/store/")) this.#serveStored(url, request, response);
    else if (this.#isLoggedIn(request)) this.#serveRegistry(url, request, response);
    else {
      const realm = `Bearer realm="http://127.0.0.1:${this.#port}/token",service="torture"`;
      response.writeHead(401, { "www-authenticate": realm }).end();
    }
  }

  #serveRegistry(url: URL, request: IncomingMessage, response: ServerResponse): void {
    const [, , repository = "", kind = "", name = ""] = url.pathname.split("/");
    const layer = this.#layers.get(repository);
    const { urlMs, urlTells } = this.#lifetimes;
    if (!layer) response.writeHead(404).end();
    else if (kind !== "blobs" || name !== layer.digest) this.#serveDocument(layer, request, response);
    else if (urlMs === undefined) this.#serveFaulty(layer, request, response);
    else {
      this.urlsIssued++;
      const until = Date.now() + urlMs;
      const signed = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
      const tells = urlTells ? `&X-Amz-Date=${signed}&X-Amz-Expires=${Math.ceil(urlMs / 1000)}` : "";
      // Another origin than the registry's, as a store is.
      const location = `http://localhost:${this.#port}/store/${repository}?Signature=${until}${tells}`;
      response.writeHead(307, { location }).end();
    }
  }

  #giveToken(response: ServerResponse): void {
    const { tokenMs = 0 } = this.#lifetimes;
    const token = randomUUID();
    this.#tokens.set(token, Date.now() + tokenMs);
    this.tokensIssued++;
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ token, expires_in: tokenMs / 1000 }));
  }

  #isLoggedIn(request: IncomingMessage): boolean {
    if (this.#lifetimes.tokenMs === undefined) return true;
    const token = /^Bearer (.*)$/.exec(request.headers.authorization ?? "")?.[1];
    const until = this.#tokens.get(token ?? "");
    if (until !== undefined && Date.now() >= until) this.expired++;
    return until !== undefined && Date.now() < until;
  }

  #serveStored(url: URL, request: IncomingMessage, response: ServerResponse): void {
    const layer = this.#layers.get(url.pathname.split("/")[2] ?? "");
    if (layer && Date.now() < Number(url.searchParams.get("Signature"))) {
      this.#serveFaulty(layer, request, response);
      return;
    }
    this.expired++;
    response.writeHead(403).end();
  }

  #serveDocument(layer: Layer, request: IncomingMessage, response: ServerResponse): void {
    const described = { digest: layer.digest, sizeBytes: layer.gz.length, diffId: layer.diffId };
    const received = { method: request.method ?? "GET", url: request.url ?? "/", headers: request.headers, body: "" };
    if (!serveDocuments([described], received, response)) response.writeHead(404).end();
  }

  #serveFaulty(layer: Layer, request: IncomingMessage, response: ServerResponse): void {
    const fault = this.fault();
    this.faults.set(fault, (this.faults.get(fault) ?? 0) + 1);
    switch (fault) {
      case "stall":
        return;
      case "reset":
        response.socket?.resetAndDestroy();
        return;
      case "500":
      case "429":
      case "401":
        response.writeHead(Number(fault)).end();
        return;
      default:
        this.#serveBytes(layer, request, response, fault);
    }
  }

  #serveBytes(layer: Layer, request: IncomingMessage, response: ServerResponse, fault: Fault): void {
    const { gz } = layer;
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const begin = range ? Number(range[1]) : 0;
    const end = range ? Math.min(Number(range[2]) + 1, gz.length) : gz.length;
    const contentRange = range ? { "content-range": `bytes ${begin}-${end - 1}/${gz.length}` } : {};
    response.writeHead(range ? 206 : 200, { "content-length": end - begin, ...contentRange });
    const sent: Sent = { layer, begin, end: begin };
    this.sent.push(sent);
    if (fault === "none") {
      pipeline(Readable.from(pieces(gz, sent, end)), response, () => undefined);
      return;
    }
    const part = gz.subarray(begin, begin + Math.floor((end - begin) / 2));
    sent.end += part.length;
    if (fault === "short") response.write(part, () => response.destroy());
    else response.write(part.subarray(0, 1000));
  }
}

function* pieces(bytes: Buffer, sent: Sent, end: number): Generator<Buffer> {
  while (sent.end < end) {
    const from = sent.end;
    sent.end = Math.min(end, from + PIECE_BYTES);
    yield bytes.subarray(from, sent.end);
  }
}
