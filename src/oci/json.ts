import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";

export type JsonObject = { readonly [key: string]: unknown };

/**
 * Parses bytes from outside as one JSON object. Throws `corrupt` when they are not UTF-8, not JSON or not an object, `limit` when they
 * nest deeper than `limits.jsonDepth`.
 * `what` starts the message, e.g. `manifest sha256:…`.
 */
export function parseJsonObject(bytes: Uint8Array, what: string): JsonObject {
  let value: unknown;
  checkDepth(bytes, what);
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    // The parser's own message quotes the text, which may be a credential file or a token: neither message nor cause keeps it.
    throw new OcifsError("corrupt", `${what}: ${bytes.length} bytes that are not UTF-8 JSON`);
  }
  return asObject(value, what);
}

/** Brackets outside strings; whether they are matched is the parser's to say. UTF-8 has no ASCII byte inside a character. */
function checkDepth(bytes: Uint8Array, what: string): void {
  let depth = 0;
  let quoted = false;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (quoted) {
      if (byte === 0x5c) at++;
      else if (byte === 0x22) quoted = false;
    } else if (byte === 0x22) quoted = true;
    else if (byte === 0x5b || byte === 0x7b) {
      if (++depth > limits.jsonDepth) {
        throw new OcifsError("limit", `${what}: JSON nested deeper than ${limits.jsonDepth}`);
      }
    } else if (byte === 0x5d || byte === 0x7d) depth--;
  }
}

export function asObject(value: unknown, what: string): JsonObject {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new OcifsError("corrupt", `${what}: want a JSON object, got ${kindOf(value)}`);
  }
  return value as JsonObject;
}

/** An array of at most `maxItems`; throws `corrupt`, or `limit` when it is longer. */
export function asArray(value: unknown, what: string, maxItems: number): readonly unknown[] {
  if (!Array.isArray(value)) throw new OcifsError("corrupt", `${what}: want a JSON array, got ${kindOf(value)}`);
  if (value.length > maxItems) {
    throw new OcifsError("limit", `${what}: ${value.length} items, the limit is ${maxItems}`);
  }
  return value;
}

export function asString(value: unknown, what: string): string {
  if (typeof value !== "string") throw new OcifsError("corrupt", `${what}: want a string, got ${kindOf(value)}`);
  return value;
}

/** undefined and null both mean "not given": Go programs write either for an empty field. */
export function asOptionalString(value: unknown, what: string): string | undefined {
  return value === undefined || value === null ? undefined : asString(value, what);
}

/** A map of strings, as annotations and labels are. */
export function asStringMap(value: unknown, what: string): ReadonlyMap<string, string> {
  if (value === undefined || value === null) return new Map();
  return new Map(Object.entries(asObject(value, what)).map(([key, item]) => [key, asString(item, `${what}.${key}`)]));
}

function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  return Array.isArray(value) ? "an array" : `a ${typeof value}`;
}
