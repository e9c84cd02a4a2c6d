import { OcifsError } from "../base/errors.js";
import { type Digest, parseDigest } from "../oci/digest.js";

export type Params = Readonly<Record<string, unknown>>;

/** A parameter that is a string and not empty; `usage` otherwise. */
export function textIn(params: Params, key: string): string {
  const value = params[key];
  if (typeof value !== "string" || value === "") throw new OcifsError("usage", `params: want ${key}, a string`);
  return value;
}

export function digestIn(params: Params, key: string): Digest {
  return parseDigest(textIn(params, key));
}

export function isParams(value: unknown): value is Params {
  return typeof value === "object" && value !== null;
}
