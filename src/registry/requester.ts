import type { Step } from "../base/steps.js";
import type { Authenticator } from "./auth.js";
import type { Clock } from "./clock.js";
import type { HttpResponse } from "./http-response.js";
import type { TransferStats } from "./transfer-stats.js";
import type { Transport } from "./transport.js";

export interface RegistryRequest {
  readonly method?: "GET" | "HEAD";
  /** Below `/v2/<repository>/`, e.g. `blobs/sha256:…`. */
  readonly path: string;
  /** Empty for `/v2/` itself. */
  readonly repository: string;
  /** Sent instead of a login of ours: the registry's answer to it, a 401 included, is then the caller's to deal with. */
  readonly authorization?: { readonly header: string | undefined } | undefined;
  readonly headers: Readonly<Record<string, string>>;
  readonly what: string;
  readonly signal: AbortSignal;
  readonly stats: TransferStats;
  /** Called when a step ends that the answer had to wait for. */
  readonly onStep?: ((step: Step) => void) | undefined;
}

/** A stale token, then one that another request got but that the server forgot in the meantime. */
const maxLogins = 2;

/** Single attempts of authorised GETs and HEADs to one registry. */
export class Requester {
  /** What the paths of the API are below, with a slash at its end. */
  readonly url: URL;
  readonly #namespace: string | undefined;
  readonly #transport: Transport;
  readonly #auth: Authenticator;
  readonly #clock: Clock;

  /** `namespace`: the registry that a server at another place is asked for content of. */
  constructor(url: URL, namespace: string | undefined, transport: Transport, auth: Authenticator, clock: Clock) {
    this.url = url;
    this.#namespace = namespace;
    this.#transport = transport;
    this.#auth = auth;
    this.#clock = clock;
  }

  /** Asks the registry, logs in when it wants that, follows redirects. Throws RegistryErrors for all but 2xx answers. */
  async get(request: RegistryRequest): Promise<HttpResponse> {
    const { repository, what, signal } = request;
    const url = new URL(`${this.url.href}${repository === "" ? "" : `${repository}/${request.path}`}`);
    if (this.#namespace !== undefined) url.searchParams.set("ns", this.#namespace);
    const origin = url.origin;
    if (request.authorization !== undefined) {
      const { header } = request.authorization;
      const authorization = header === undefined ? undefined : { origin, header };
      const response = await this.#transport.send({ ...request, url, authorization });
      if (isSuccess(response)) return response;
      throw await this.#errorOf(response, header);
    }
    for (let logins = 0; ; logins++) {
      const header = await this.#auth.header({ repository, what, signal });
      request.onStep?.("token");
      const authorization = header === undefined ? undefined : { origin, header };
      const response = await this.#transport.send({ ...request, url, authorization });
      if (isSuccess(response)) return response;
      // Only the registry may ask for a login; a store that it redirects to gets nothing.
      if (response.status !== 401 || response.url.origin !== origin || logins >= maxLogins) {
        throw await this.#errorOf(response, header);
      }
      const challenges = response.headers("www-authenticate");
      if (challenges.length === 0) throw await this.#errorOf(response, header);
      await response.discard();
      await this.#auth.renew({ repository, what, signal }, challenges, header);
    }
  }

  /** Asks a URL that the registry redirected to earlier, without credentials. Returns any answer. */
  async getDirect(url: URL, request: RegistryRequest): Promise<HttpResponse> {
    return await this.#transport.send({ ...request, url, authorization: undefined });
  }

  async #errorOf(response: HttpResponse, header: string | undefined): Promise<Error> {
    const secrets = header === undefined ? [] : [header.slice(header.indexOf(" ") + 1)];
    return await response.toError(this.#clock.nowMs(), secrets);
  }
}

export function isSuccess(response: HttpResponse): boolean {
  return response.status >= 200 && response.status < 300;
}
