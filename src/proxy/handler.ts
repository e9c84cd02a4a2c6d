import type { IncomingMessage, ServerResponse } from "node:http";
import { isOcifsError, messageOf } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Log } from "../base/log.js";
import { mediaTypes } from "../oci/media-types.js";
import { redactUrl } from "../registry/redact.js";
import { AnswerError, toAnswerError } from "./answer-error.js";
import type { ProxyBlobs } from "./blobs.js";
import { requestedRange } from "./range.js";
import { type Route, routeOf, unknownCodeOf } from "./route.js";
import { sendBody, sendError, sendWhole } from "./send.js";
import { type Caller, callerOf, proxyItself, type Upstream } from "./upstream.js";

export interface HandlerOptions {
  /** The first serves requests that name none. */
  readonly upstreams: readonly Upstream[];
  readonly blobs: ProxyBlobs;
  /** Clients log in at the upstream themselves; else the proxy's login speaks for them. */
  readonly forwardsLogins: boolean;
  readonly log: Log;
}

type RouteOf<K extends Route["kind"]> = Extract<Route, { kind: K }>;

/** Answers one request after the other; holds what they have in common. */
export class RequestHandler {
  readonly #o: HandlerOptions;
  readonly #byRegistry: ReadonlyMap<string, Upstream>;
  readonly counts = { requests: 0, blobBytes: 0 };
  #streams = 0;

  constructor(options: HandlerOptions) {
    this.#o = options;
    this.#byRegistry = new Map(options.upstreams.map((upstream) => [upstream.registry, upstream]));
  }

  /** Never rejects. `signal` fires when the client leaves. */
  async handle(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const { method = "", url = "" } = request;
    this.counts.requests += 1;
    let route: Route | undefined;
    try {
      route = routeOf(method, url, (ns) => this.#registryOf(ns));
      const caller = this.#o.forwardsLogins ? callerOf(request.headers.authorization) : proxyItself;
      await this.#answer(route, caller, request, response, signal);
    } catch (error) {
      const answer = toAnswerError(error, unknownCodeOf(route), this.#o.forwardsLogins);
      const left = signal.aborted && isOcifsError(error, "aborted");
      if (!left && answer.status >= 500) this.#o.log.warn(messageOf(error), { request: `${method} ${shown(url)}` });
      if (!response.headersSent && !response.destroyed) sendError(response, answer);
      else response.destroy();
    }
  }

  async #answer(
    route: Route,
    caller: Caller,
    request: IncomingMessage,
    response: ServerResponse,
    signal: AbortSignal,
  ): Promise<void> {
    switch (route.kind) {
      case "base":
        if (this.#o.forwardsLogins) await this.#upstream(route.registry).ping(caller, signal);
        return sendWhole(response, 200, { "content-type": "application/json" }, Buffer.from("{}"));
      case "manifest":
        return await this.#manifest(route, caller, request, response, signal);
      case "blob":
        return await this.#blob(route, caller, request, response, signal);
      case "tags":
        return await this.#list(`tags/list${withQuestionMark(route.query)}`, route, caller, response, signal);
      case "referrers": {
        const path = `referrers/${route.reference.digest}${withQuestionMark(route.query)}`;
        return await this.#list(path, route, caller, response, signal);
      }
    }
  }

  async #manifest(
    { reference }: RouteOf<"manifest">,
    caller: Caller,
    request: IncomingMessage,
    response: ServerResponse,
    signal: AbortSignal,
  ): Promise<void> {
    const { accept } = request.headers;
    const manifest = await this.#upstream(reference.registry).manifest(caller, reference, accept, signal);
    const { digest } = manifest;
    const headers = { "content-type": manifest.mediaType, "docker-content-digest": digest, etag: `"${digest}"` };
    sendWhole(response, 200, headers, manifest.bytes);
  }

  async #blob(
    { reference }: RouteOf<"blob">,
    caller: Caller,
    request: IncomingMessage,
    response: ServerResponse,
    signal: AbortSignal,
  ): Promise<void> {
    const { registry, repository, digest } = reference;
    const upstream = this.#upstream(registry);
    const sizeBytes = await upstream.blobSize(caller, repository, digest, signal);
    const etag = `"${digest}"`;
    const headers = {
      "content-type": "application/octet-stream",
      "docker-content-digest": digest,
      "accept-ranges": "bytes",
      etag,
    };
    if (request.method === "HEAD") {
      response.setHeader("content-length", sizeBytes);
      return void response.writeHead(200, headers).end();
    }
    const wanted = requestedRange(request.headers.range, header(request, "if-range"), etag, sizeBytes);
    if (wanted.kind === "unsatisfiable") {
      const range = { "content-range": `bytes */${sizeBytes}` };
      throw new AnswerError(
        416,
        "BLOB_UNKNOWN",
        `blob ${digest}: that range is not within its ${sizeBytes} bytes`,
        range,
      );
    }
    const { begin, end } = wanted.kind === "all" ? { begin: 0, end: sizeBytes } : wanted;
    const part = wanted.kind === "part" && wanted.closed;
    const range = wanted.kind === "all" ? {} : { "content-range": `bytes ${begin}-${end - 1}/${sizeBytes}` };
    using _place = this.#enter();
    const scope = `${registry}/${repository}`;
    const open = () => upstream.openBlob(repository, digest, sizeBytes);
    const chunks = this.#o.blobs.read({ scope, digest, sizeBytes, open, begin, end, part, signal });
    const status = wanted.kind === "all" ? 200 : 206;
    this.counts.blobBytes += await sendBody(
      response,
      status,
      { ...headers, ...range, "content-length": end - begin },
      chunks,
    );
  }

  async #list(
    path: string,
    { kind, reference }: RouteOf<"tags" | "referrers">,
    caller: Caller,
    response: ServerResponse,
    signal: AbortSignal,
  ): Promise<void> {
    const { registry, repository } = reference;
    const accept = kind === "tags" ? "application/json" : mediaTypes.ociIndex;
    const answer = await this.#upstream(registry).list(caller, repository, path, accept, signal);
    const headers: Record<string, string> = { "content-type": answer.header("content-type") ?? accept };
    const link = answer.header("link");
    if (link !== undefined) headers.link = this.#linkHere(link, registry);
    const filters = answer.header("oci-filters-applied");
    if (filters !== undefined) headers["oci-filters-applied"] = filters;
    sendWhole(response, 200, headers, answer.bytes);
  }

  /** The next page is to be asked for here, of the same upstream. */
  #linkHere(link: string, registry: string): string {
    return link.replace(/<([^>]*)>/g, (whole, target: string) => {
      if (!URL.canParse(target, "http://here")) return whole;
      const url = new URL(target, "http://here");
      if (registry !== this.#o.upstreams[0]?.registry) url.searchParams.set("ns", registry);
      return `<${url.pathname}${url.search}>`;
    });
  }

  /** A place among the answers that have a body under way. */
  #enter(): Disposable {
    if (this.#streams >= limits.proxyStreams) {
      throw new AnswerError(429, "TOOMANYREQUESTS", `${limits.proxyStreams} blobs are being sent; try again later`, {
        "retry-after": "1",
      });
    }
    this.#streams += 1;
    return {
      [Symbol.dispose]: () => {
        this.#streams -= 1;
      },
    };
  }

  #registryOf(ns: string | undefined): string {
    const [first] = this.#o.upstreams;
    if (ns === undefined && first !== undefined) return first.registry;
    if (ns !== undefined && this.#byRegistry.has(ns)) return ns;
    throw new AnswerError(404, "NAME_UNKNOWN", `ns=${ns?.slice(0, 200)}: this proxy is not for that registry`);
  }

  #upstream(registry: string | undefined): Upstream {
    const upstream = this.#byRegistry.get(registry ?? "");
    if (!upstream) throw new AnswerError(404, "NAME_UNKNOWN", `${registry}: this proxy is not for that registry`);
    return upstream;
  }
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(", ") : value;
}

function withQuestionMark(query: string): string {
  return query === "" ? "" : `?${query}`;
}

function shown(url: string): string {
  return redactUrl(`http://proxy${url.startsWith("/") ? url : "/"}`).slice("http://proxy".length);
}
