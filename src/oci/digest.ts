import { createHash, type Hash } from "node:crypto";
import { OcifsError } from "../base/errors.js";

/** `sha256:<64 lower-case hex>` or `sha512:<128>`, as the OCI image spec defines. */
export type Digest = `${"sha256" | "sha512"}:${string}`;

const shapes = { sha256: /^[0-9a-f]{64}$/, sha512: /^[0-9a-f]{128}$/ } as const;

/** Checks the algorithm and the length; throws `usage`. */
export function parseDigest(text: string): Digest {
  const [algorithm, hex, ...rest] = text.split(":");
  if (rest.length > 0 || hex === undefined || (algorithm !== "sha256" && algorithm !== "sha512")) {
    throw new OcifsError("usage", `digest "${text}": want sha256:<64 hex> or sha512:<128 hex>`);
  }
  if (!shapes[algorithm].test(hex)) {
    throw new OcifsError("usage", `digest "${text}": the hex part has the wrong length or characters`);
  }
  return `${algorithm}:${hex}`;
}

export function algorithmOf(digest: Digest): "sha256" | "sha512" {
  return digest.startsWith("sha256:") ? "sha256" : "sha512";
}

export function hexOf(digest: Digest): string {
  return digest.slice(digest.indexOf(":") + 1);
}

/** A hash of the digest's own algorithm. */
export function hasherOf(digest: Digest): Hash {
  return createHash(algorithmOf(digest));
}

export function digestOfBytes(bytes: Uint8Array): Digest {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}
