import { inspect } from "node:util";

/**
 * A user and what proves it. The secret lives in a private field and leaves only through `reveal`; every way of printing
 * the object shows the class and the user alone.
 */
export class Credential {
  readonly kind: "basic" | "identity-token";
  /** Empty for identity tokens. */
  readonly username: string;
  readonly #secret: string;

  private constructor(kind: "basic" | "identity-token", username: string, secret: string) {
    this.kind = kind;
    this.username = username;
    this.#secret = secret;
  }

  static basic(username: string, password: string): Credential {
    return new Credential("basic", username, password);
  }

  /** An OAuth2 refresh token, which `docker login` stores as `identitytoken`. */
  static identityToken(token: string): Credential {
    return new Credential("identity-token", "", token);
  }

  /** The password or token itself. The caller sends it, and keeps it out of messages. */
  reveal(): string {
    return this.#secret;
  }

  /** The value of an Authorization header with HTTP Basic (RFC 7617, UTF-8). */
  basicHeader(): string {
    return `Basic ${Buffer.from(`${this.username}:${this.#secret}`, "utf8").toString("base64")}`;
  }

  toString(): string {
    return `Credential(${this.kind}${this.username === "" ? "" : ` ${this.username}`}, REDACTED)`;
  }

  toJSON(): string {
    return this.toString();
  }

  [inspect.custom](): string {
    return this.toString();
  }
}

/** Finds the credential for one repository of one registry; undefined means anonymous access. */
export interface CredentialProvider {
  find(registry: string, repository: string, signal?: AbortSignal): Promise<Credential | undefined>;
}

/** For registries that want no login, and for tests. */
export const anonymous: CredentialProvider = { find: async () => undefined };
