import { OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Step } from "../base/steps.js";
import type { AddressPolicy } from "./address-policy.js";
import type { ClientCertificate } from "./hosts-file.js";
import { HttpResponse } from "./http-response.js";
import { redactUrl } from "./redact.js";
import { fromTransport, RegistryError } from "./registry-error.js";
import type { TransferStats } from "./transfer-stats.js";
import { Pool } from "./undici-pool.js";

export interface TransportOptions {
  /** Where the user said the server is: this origin may have any address. */
  readonly registryUrl: URL;
  /** Sent to this origin only. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly addressPolicy: AddressPolicy;
  /** http:// for targets other than the registry, and going from https to http. */
  readonly insecure: boolean;
  /** Connections to one origin. */
  readonly connections: number;
  readonly connectTimeoutMs: number;
  readonly headersTimeoutMs: number;
  /** Between two pieces of a body. */
  readonly bodyTimeoutMs: number;
  /** PEM certificates to trust instead of the system's. */
  readonly ca?: string | readonly string[] | undefined;
  /** Shown to this origin only. */
  readonly client?: readonly ClientCertificate[] | undefined;
  /** Whoever answers for this origin is believed to be it. */
  readonly skipVerify?: boolean | undefined;
}

export interface HttpRequest {
  readonly method?: "GET" | "HEAD" | "POST";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Sent only to requests whose URL has this origin. */
  readonly authorization?: { readonly origin: string; readonly header: string } | undefined;
  /** Operation and object, the start of every message. */
  readonly what: string;
  readonly signal: AbortSignal;
  readonly stats: TransferStats;
  /** Called when a step ends that the answer had to wait for. */
  readonly onStep?: ((step: Step) => void) | undefined;
}

/** Reads of a mount come in bursts; a server that closes earlier says so, or costs one retry. */
const idleConnectionMs = 20_000;

const redirectStatuses: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** Single HTTP attempts over one bounded pool of connections per origin. Retries and logins are built on top. */
export class Transport implements AsyncDisposable {
  readonly #options: TransportOptions;
  /** By origin, least recently used first. */
  readonly #pools = new Map<string, Pool>();
  readonly #closing = new Set<Promise<void>>();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /**
   * Sends a request and follows redirects of GETs, at most `limits.redirects`. Authorization goes to its own origin only;
   * redirects from https to http and to forbidden addresses are refused. Any other answer is returned, whatever its status.
   */
  async send(request: HttpRequest): Promise<HttpResponse> {
    let url = request.url;
    for (let redirects = 0; ; redirects++) {
      await this.#checkTarget(url, request.what);
      const response = await this.#sendOnce({ ...request, url });
      const location = response.header("location");
      if (request.method === "POST" || location === undefined || !redirectStatuses.has(response.status))
        return response;
      await response.discard();
      request.onStep?.("redirect");
      if (redirects >= limits.redirects) {
        throw new RegistryError(
          "network",
          `${request.what}: more than ${limits.redirects} redirects, last to ${redactUrl(url)}`,
        );
      }
      url = this.#redirectTarget(url, location, request.what);
    }
  }

  #redirectTarget(from: URL, location: string, what: string): URL {
    if (!URL.canParse(location, from.href)) {
      throw new RegistryError("corrupt", `${what}: ${from.host} redirects to something that is not a URL`);
    }
    const target = new URL(location, from.href);
    target.hash = "";
    target.username = "";
    target.password = "";
    if (from.protocol === "https:" && target.protocol === "http:" && !this.#options.insecure) {
      throw new OcifsError("denied", `${what}: ${from.host} redirects from https to ${redactUrl(target)}; refused`);
    }
    return target;
  }

  async #checkTarget(url: URL, what: string): Promise<void> {
    if (this.#isOwn(url.origin)) return;
    if (url.protocol !== "https:" && !(url.protocol === "http:" && this.#options.insecure)) {
      throw new OcifsError("denied", `${what}: the registry points to ${redactUrl(url)}; want an https URL`);
    }
    await this.#options.addressPolicy.checkLiteral(url, what);
  }

  async #sendOnce(request: HttpRequest): Promise<HttpResponse> {
    const { url, signal, what, stats, authorization, onStep } = request;
    throwIfAborted(signal, what);
    const headers: Record<string, string> = {
      "user-agent": "ocifs",
      "accept-encoding": "identity",
      ...request.headers,
      ...(this.#isOwn(url.origin) ? this.#options.headers : {}),
    };
    if (authorization !== undefined && authorization.origin === url.origin)
      headers.authorization = authorization.header;
    stats.add("requests");
    try {
      const data = await this.#poolOf(url).request({
        method: request.method ?? "GET",
        path: `${url.pathname}${url.search}`,
        headers,
        signal,
        ...(onStep === undefined ? {} : { onConnected: () => onStep("connection") }),
        ...(request.body === undefined ? {} : { body: request.body }),
      });
      onStep?.("first byte");
      return new HttpResponse(data, { url, what, signal, stats });
    } catch (error) {
      throw fromTransport(error, `${what}: ${url.host}`, signal);
    }
  }

  #poolOf(url: URL): Pool {
    if (this.#closed) throw new OcifsError("aborted", `${url.host}: the registry client is closed`);
    const found = this.#pools.get(url.origin);
    if (found !== undefined) {
      this.#pools.delete(url.origin);
      this.#pools.set(url.origin, found);
      return found;
    }
    const [oldest] = this.#pools;
    if (oldest !== undefined && this.#pools.size >= limits.originPools) this.#retire(...oldest);
    const pool = this.#createPool(url.origin);
    this.#pools.set(url.origin, pool);
    return pool;
  }

  /** Lets the transfers of a pool finish, and waits for it when the transport is closed. */
  #retire(origin: string, pool: Pool): void {
    this.#pools.delete(origin);
    const closing = pool.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  #createPool(origin: string): Pool {
    const { addressPolicy, ca, client = [], skipVerify = false, connections, ...timeouts } = this.#options;
    const own = this.#isOwn(origin);
    return new Pool(origin, {
      connections,
      headersTimeout: timeouts.headersTimeoutMs,
      bodyTimeout: timeouts.bodyTimeoutMs,
      keepAliveTimeout: idleConnectionMs,
      maxHeaderSize: limits.httpHeaderBytes,
      connect: {
        timeout: timeouts.connectTimeoutMs,
        // Said outright, because NODE_TLS_REJECT_UNAUTHORIZED=0 would change the default.
        rejectUnauthorized: !(own && skipVerify),
        ...(ca === undefined ? {} : { ca: [ca].flat() as string[] }),
        ...(own && client.length > 0
          ? { cert: client.map(({ cert }) => cert), key: client.map(({ key }) => key) }
          : {}),
        lookup: own ? addressPolicy.registryLookup : addressPolicy.lookup,
      },
    });
  }

  #isOwn(origin: string): boolean {
    return origin === this.#options.registryUrl.origin;
  }

  /** Destroys all connections; requests under way fail. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all([...pools.map((pool) => pool.destroy()), ...this.#closing]);
  }
}
