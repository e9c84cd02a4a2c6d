import { OcifsError } from "../base/errors.js";
import type { Clock } from "./clock.js";
import type { HttpResponse } from "./http-response.js";
import { isOutage, RegistryError } from "./registry-error.js";
import type { RegistryRequest, Requester } from "./requester.js";

/** How long a mirror that could not answer is asked after all others: long enough that a dead one does not slow every request. */
const REST_MS = 30_000;

/** One server that a registry's content is asked of. */
export class Endpoint {
  readonly requester: Requester;
  readonly #can: { readonly pull: boolean; readonly resolve: boolean };
  #restsUntilMs = Number.NEGATIVE_INFINITY;

  constructor(requester: Requester, can: { readonly pull: boolean; readonly resolve: boolean }) {
    this.requester = requester;
    this.#can = can;
  }

  get host(): string {
    return this.requester.url.host;
  }

  serves({ path }: Pick<RegistryRequest, "path">): boolean {
    return asksForTag(path) ? this.#can.resolve : this.#can.pull;
  }

  rests(nowMs: number): boolean {
    return nowMs < this.#restsUntilMs;
  }

  rest(nowMs: number): void {
    this.#restsUntilMs = nowMs + REST_MS;
  }
}

/** Anything else is named by a digest, or is no content. */
function asksForTag(path: string): boolean {
  return path.startsWith("manifests/") && !path.includes(":");
}

interface MirrorFailure {
  readonly host: string;
  readonly error: unknown;
}

/** The mirrors of a registry, in order, and the registry itself behind them. Single attempts: retries are built on top. */
export class Endpoints {
  readonly #mirrors: readonly Endpoint[];
  readonly #registry: Endpoint;
  readonly #clock: Clock;

  constructor(mirrors: readonly Endpoint[], registry: Endpoint, clock: Clock) {
    this.#mirrors = mirrors;
    this.#registry = registry;
    this.#clock = clock;
  }

  /**
   * Asks one after the other until `use` is content with an answer; what `use` throws counts as the server's failure. When all have
   * failed it is the registry's error that is thrown, with what the mirrors said behind it. The response is closed unless `use` keeps it.
   */
  async ask<T>(request: RegistryRequest, use: (response: HttpResponse, endpoint: Endpoint) => Promise<T>): Promise<T> {
    const failures: MirrorFailure[] = [];
    let verdict: unknown;
    for (const endpoint of this.#inOrder(request)) {
      try {
        return await use(await endpoint.requester.get(request), endpoint);
      } catch (error) {
        if (request.signal.aborted) throw error;
        if (endpoint === this.#registry) verdict = error;
        else {
          failures.push({ host: endpoint.host, error });
          this.failed(endpoint, error);
        }
      }
    }
    throw withFailures(verdict ?? failures.pop()?.error ?? nobody(request), failures);
  }

  /** A server that answered and then broke off, or could not answer at all: it is asked last for a while. The registry never is. */
  failed(endpoint: Endpoint, error: unknown): void {
    const answered = error instanceof RegistryError && error.status !== undefined && !isOutage(error);
    if (endpoint !== this.#registry && !answered) endpoint.rest(this.#clock.nowMs());
  }

  #inOrder(request: RegistryRequest): Endpoint[] {
    // Another's login is meant for the registry, and what the registry says to it.
    if (request.authorization !== undefined) return [this.#registry];
    const nowMs = this.#clock.nowMs();
    const resting = this.#mirrors.filter((mirror) => mirror.rests(nowMs));
    const ready = this.#mirrors.filter((mirror) => !resting.includes(mirror));
    return [...ready, this.#registry, ...resting].filter((endpoint) => endpoint.serves(request));
  }
}

function nobody({ what }: RegistryRequest): OcifsError {
  return new OcifsError("denied", `${what}: hosts.toml allows no server to be asked for it; see its capabilities`);
}

function withFailures(error: unknown, failures: readonly MirrorFailure[]): unknown {
  if (failures.length === 0 || !(error instanceof OcifsError)) return error;
  const said = failures.map(({ host, error }) => `mirror ${host}: ${error instanceof Error ? error.message : error}`);
  const message = `${error.message} (before that, ${said.join("; ")})`;
  if (!(error instanceof RegistryError)) return new OcifsError(error.code, message, { cause: error.cause });
  const { retryable, status, retryAfterMs, challenges, cause } = error;
  return new RegistryError(error.code, message, {
    ...{ retryable, retryAfterMs, challenges, cause },
    ...(status === undefined ? {} : { status }),
  });
}
