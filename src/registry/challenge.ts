import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";

/** One challenge of a WWW-Authenticate header. Scheme and parameter names are lower case. */
export interface Challenge {
  readonly scheme: string;
  readonly parameters: ReadonlyMap<string, string>;
}

const token = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;
const token68 = /[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))/y;
const spaces = /[ \t]*/y;
const commas = /[ \t,]*/y;

/**
 * Parses WWW-Authenticate (RFC 9110 11.6.1): several challenges in one header, in several headers, quoted strings with
 * escapes, names in any case, the token68 form (its value is dropped: neither Bearer nor Basic uses it).
 * Throws `corrupt` when the text does not follow the grammar, `limit` when there is too much of it.
 */
export function parseChallenges(header: string | readonly string[]): readonly Challenge[] {
  const headers = typeof header === "string" ? [header] : header;
  const challenges = headers.flatMap((text) => new ChallengeParser(text).parse());
  if (challenges.length > limits.authChallenges) {
    throw new OcifsError("limit", `WWW-Authenticate: more than ${limits.authChallenges} challenges`);
  }
  return challenges;
}

class ChallengeParser {
  readonly #text: string;
  #position = 0;

  constructor(text: string) {
    this.#text = text;
  }

  parse(): Challenge[] {
    const challenges: Challenge[] = [];
    this.#take(commas);
    while (this.#position < this.#text.length) {
      const scheme = this.#take(token);
      if (scheme === "") throw this.#malformed("an authentication scheme");
      this.#take(spaces);
      challenges.push({ scheme: scheme.toLowerCase(), parameters: this.#parameters() });
      if (challenges.length > limits.authChallenges) break;
      this.#take(commas);
    }
    return challenges;
  }

  /** Parameters up to the end, or up to a token that no "=" follows: that one is the next challenge's scheme. */
  #parameters(): Map<string, string> {
    const parameters = new Map<string, string>();
    for (;;) {
      const start = this.#position;
      const name = this.#take(token);
      this.#take(spaces);
      if (name === "" || this.#text[this.#position] !== "=") {
        this.#position = start;
        if (parameters.size === 0) this.#take(token68);
        return parameters;
      }
      this.#position += 1;
      this.#take(spaces);
      const value = this.#value();
      if (value === undefined) {
        // `scheme abc==` is a token68 whose padding looked like an empty parameter.
        this.#position = start;
        if (parameters.size === 0 && this.#take(token68) !== "") return parameters;
        throw this.#malformed("a parameter value");
      }
      const key = name.toLowerCase();
      if (!parameters.has(key)) parameters.set(key, value);
      if (parameters.size > limits.authParameters) {
        throw new OcifsError("limit", `WWW-Authenticate: more than ${limits.authParameters} parameters`);
      }
      this.#take(spaces);
      if (this.#position < this.#text.length && this.#text[this.#position] !== ",") throw this.#malformed('","');
      this.#take(commas);
    }
  }

  #value(): string | undefined {
    if (this.#text[this.#position] === '"') return this.#quoted();
    const value = this.#take(token);
    return value === "" ? undefined : value;
  }

  #quoted(): string {
    let value = "";
    for (let at = this.#position + 1; at < this.#text.length; at++) {
      const character = this.#text[at];
      if (character === '"') {
        this.#position = at + 1;
        return value;
      }
      if (character === "\\") at += 1;
      value += this.#text[at] ?? "";
    }
    throw this.#malformed('a closing "');
  }

  #take(pattern: RegExp): string {
    pattern.lastIndex = this.#position;
    const taken = pattern.exec(this.#text)?.[0] ?? "";
    this.#position += taken.length;
    return taken;
  }

  #malformed(wanted: string): OcifsError {
    return new OcifsError("corrupt", `WWW-Authenticate: want ${wanted} at character ${this.#position + 1}`);
  }
}
