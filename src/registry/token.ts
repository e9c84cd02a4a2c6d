import { limits } from "../base/limits.js";
import { asOptionalString, parseJsonObject } from "../oci/json.js";
import type { Challenge } from "./challenge.js";
import type { Clock } from "./clock.js";
import type { Credential } from "./credential.js";
import { redactUrl } from "./redact.js";
import { RegistryError } from "./registry-error.js";
import type { TransferStats } from "./transfer-stats.js";
import type { Transport } from "./transport.js";

/** What a token server needs to know; from a Bearer challenge. */
export interface TokenRealm {
  readonly realm: URL;
  readonly service: string | undefined;
  readonly scope: string;
}

export interface Token {
  readonly value: string;
  /** When to get the next one: before it expires. */
  readonly refreshAtMs: number;
}

/** The token spec's lifetime of a token that does not say. */
const defaultLifetimeSeconds = 60;
/** A token that lives longer than a day is asked for again anyway. */
const maxLifetimeSeconds = 86_400;

/** Reads realm, service and scope of a Bearer challenge. Throws `corrupt` without a usable realm. */
export function realmOf(challenge: Challenge, repository: string, what: string): TokenRealm {
  const realm = challenge.parameters.get("realm");
  if (realm === undefined || !URL.canParse(realm)) {
    throw new RegistryError("corrupt", `${what}: the registry's Bearer challenge names no token server`);
  }
  const url = new URL(realm);
  url.username = "";
  url.password = "";
  url.hash = "";
  return {
    realm: url,
    service: challenge.parameters.get("service"),
    // Registries with scopes of their own say so in the challenge.
    scope: challenge.parameters.get("scope") || `repository:${repository}:pull`,
  };
}

export interface TokenRequest {
  readonly realm: TokenRealm;
  readonly credential: Credential | undefined;
  readonly what: string;
  readonly signal: AbortSignal;
  readonly stats: TransferStats;
}

/**
 * Gets a token: GET with Basic for a password or nobody (distribution `token.md`), POST with a refresh token for an identity
 * token (`oauth.md`). Throws `unauthorized` when the token server does not accept the credential.
 */
export async function fetchToken(transport: Transport, clock: Clock, request: TokenRequest): Promise<Token> {
  const { realm, credential, signal, stats } = request;
  const what = `${request.what}: token from ${redactUrl(realm.realm)}`;
  const response =
    credential?.kind === "identity-token"
      ? await transport.send({
          method: "POST",
          url: realm.realm,
          headers: { accept: "application/json", "content-type": "application/x-www-form-urlencoded" },
          body: refreshForm(realm, credential.reveal()),
          what,
          signal,
          stats,
        })
      : await transport.send({
          url: tokenUrl(realm),
          headers: { accept: "application/json" },
          authorization:
            credential === undefined ? undefined : { origin: realm.realm.origin, header: credential.basicHeader() },
          what,
          signal,
          stats,
        });
  if (response.status !== 200) {
    const secrets =
      credential === undefined ? [] : [credential.reveal(), credential.basicHeader().slice("Basic ".length)];
    throw await response.toError(clock.nowMs(), secrets);
  }
  return parseToken(await response.readAll(limits.tokenBytes), clock.nowMs(), what);
}

function tokenUrl(realm: TokenRealm): URL {
  const url = new URL(realm.realm);
  if (realm.service !== undefined) url.searchParams.set("service", realm.service);
  // Several scopes are several parameters.
  for (const scope of realm.scope.split(" ").filter((part) => part !== "")) url.searchParams.append("scope", scope);
  return url;
}

function refreshForm(realm: TokenRealm, refreshToken: string): string {
  const form = new URLSearchParams({ grant_type: "refresh_token", client_id: "ocifs", refresh_token: refreshToken });
  form.set("scope", realm.scope);
  if (realm.service !== undefined) form.set("service", realm.service);
  return form.toString();
}

function parseToken(bytes: Uint8Array, nowMs: number, what: string): Token {
  const document = parseJsonObject(bytes, what);
  const value =
    asOptionalString(document.token, `${what}: token`) ||
    asOptionalString(document.access_token, `${what}: access_token`);
  // Anything else could not be sent in a header.
  if (value === undefined || !/^[\x21-\x7e]+$/.test(value)) {
    throw new RegistryError("corrupt", `${what}: the answer holds no usable token`);
  }
  const declared = document.expires_in;
  const lifetimeSeconds =
    typeof declared === "number" && declared > 0 ? Math.min(declared, maxLifetimeSeconds) : defaultLifetimeSeconds;
  return { value, refreshAtMs: refreshTime(lifetimeSeconds * 1000, document.issued_at, nowMs) };
}

/** A token server may hand out a token it issued a while ago; a clock that disagrees with ours is not believed. */
function refreshTime(lifetimeMs: number, issuedAt: unknown, nowMs: number): number {
  const issuedMs = typeof issuedAt === "string" ? Date.parse(issuedAt) : Number.NaN;
  const startMs = issuedMs <= nowMs && issuedMs > nowMs - lifetimeMs ? issuedMs : nowMs;
  const marginMs = Math.min(lifetimeMs / 5, 30_000);
  return startMs + lifetimeMs - marginMs;
}
