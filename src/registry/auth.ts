import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { waitShared } from "./abort.js";
import { type Challenge, parseChallenges } from "./challenge.js";
import type { Clock } from "./clock.js";
import type { Credential, CredentialProvider } from "./credential.js";
import { fetchToken, realmOf, type Token, type TokenRealm } from "./token.js";
import type { TransferStats } from "./transfer-stats.js";
import type { Transport } from "./transport.js";

export interface AuthContext {
  readonly repository: string;
  readonly what: string;
  readonly signal: AbortSignal;
}

interface Login {
  /** The Authorization header; undefined when the first token is still on its way. */
  readonly header: string;
  /** Set for Bearer logins: how to get the next token, and when. */
  readonly bearer?: { readonly realm: TokenRealm; readonly refreshAtMs: number };
}

/**
 * Logs in to one registry: remembers what each repository's requests must carry, renews tokens before they expire and after
 * a 401. Work under way is shared by all who need it, and outlives a caller that gives up.
 */
export class Authenticator implements Disposable {
  readonly #registry: string;
  readonly #credentials: CredentialProvider;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #stats: TransferStats;
  /** By repository, least recently renewed first. */
  readonly #logins = new Map<string, Login>();
  readonly #renewals = new Map<string, Promise<Login>>();
  readonly #lifetime = new AbortController();

  constructor(
    registry: string,
    credentials: CredentialProvider,
    transport: Transport,
    clock: Clock,
    stats: TransferStats,
  ) {
    this.#registry = registry;
    this.#credentials = credentials;
    this.#transport = transport;
    this.#clock = clock;
    this.#stats = stats;
  }

  /** The Authorization header for a request; undefined before the registry has asked for one. */
  async header(context: AuthContext): Promise<string | undefined> {
    const login = this.#logins.get(context.repository);
    if (login?.bearer === undefined || this.#clock.nowMs() < login.bearer.refreshAtMs) return login?.header;
    const { realm } = login.bearer;
    return (await this.#share(context, () => this.#bearer(context, realm))).header;
  }

  /**
   * Answers a 401: afterwards `header` gives something other than what was `rejected`. Throws `unauthorized` when there is
   * nothing else to offer.
   */
  async renew(context: AuthContext, wwwAuthenticate: readonly string[], rejected: string | undefined): Promise<void> {
    const current = this.#logins.get(context.repository);
    if (current !== undefined && current.header !== rejected) return;
    await this.#share(context, () => this.#answer(context, parseChallenges(wwwAuthenticate), rejected));
  }

  async #answer(context: AuthContext, challenges: readonly Challenge[], rejected: string | undefined): Promise<Login> {
    const bearer = challenges.find(({ scheme }) => scheme === "bearer");
    if (bearer !== undefined) return await this.#bearer(context, realmOf(bearer, context.repository, context.what));
    if (challenges.some(({ scheme }) => scheme === "basic")) return await this.#basic(context, rejected);
    const schemes = challenges.map(({ scheme }) => scheme).join(", ") || "no scheme at all";
    throw new OcifsError(
      "unauthorized",
      `${context.what}: ${this.#registry} wants a login with ${schemes}; want Bearer or Basic`,
    );
  }

  async #basic(context: AuthContext, rejected: string | undefined): Promise<Login> {
    const credential = await this.#credential(context.repository);
    if (credential?.kind !== "basic") {
      const have =
        credential === undefined ? "there is no credential for it" : "there is only an identity token for it";
      throw new OcifsError("unauthorized", `${context.what}: ${this.#registry} wants a user and password, and ${have}`);
    }
    const header = credential.basicHeader();
    if (header === rejected) {
      const user = JSON.stringify(credential.username);
      throw new OcifsError(
        "unauthorized",
        `${context.what}: ${this.#registry} does not accept the password of user ${user}`,
      );
    }
    return { header };
  }

  async #bearer(context: AuthContext, realm: TokenRealm): Promise<Login> {
    const token: Token = await fetchToken(this.#transport, this.#clock, {
      realm,
      credential: await this.#credential(context.repository),
      what: context.what,
      signal: this.#lifetime.signal,
      stats: this.#stats,
    });
    return { header: `Bearer ${token.value}`, bearer: { realm, refreshAtMs: token.refreshAtMs } };
  }

  /** Asked anew for every login: a helper's passwords may themselves expire. */
  async #credential(repository: string): Promise<Credential | undefined> {
    return await this.#credentials.find(this.#registry, repository, this.#lifetime.signal);
  }

  async #share(context: AuthContext, login: () => Promise<Login>): Promise<Login> {
    const { repository } = context;
    let renewal = this.#renewals.get(repository);
    if (renewal === undefined) {
      renewal = this.#keep(repository, login).finally(() => this.#renewals.delete(repository));
      this.#renewals.set(repository, renewal);
      // A caller that gave up does not hear of a failure; those still waiting do.
      renewal.catch(() => undefined);
    }
    return await waitShared(renewal, context.what, context.signal);
  }

  async #keep(repository: string, login: () => Promise<Login>): Promise<Login> {
    const fresh = await login();
    this.#logins.delete(repository);
    this.#logins.set(repository, fresh);
    const [oldest] = this.#logins.keys();
    if (oldest !== undefined && this.#logins.size > limits.authTokens) this.#logins.delete(oldest);
    return fresh;
  }

  [Symbol.dispose](): void {
    this.#lifetime.abort(new OcifsError("aborted", `${this.#registry}: the registry client is closed`));
  }
}
