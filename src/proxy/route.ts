import { isOcifsError } from "../base/errors.js";
import type { Digest } from "../oci/digest.js";
import { parseReference, type Reference } from "../oci/reference.js";
import { AnswerError } from "./answer-error.js";

/** What a request asks for: the pull part of the OCI distribution spec 1.1. */
export type Route =
  | { readonly kind: "base"; readonly registry: string | undefined }
  | { readonly kind: "manifest"; readonly reference: Reference }
  | { readonly kind: "blob"; readonly reference: Reference & { readonly digest: Digest } }
  | { readonly kind: "tags"; readonly reference: Reference; readonly query: string }
  | {
      readonly kind: "referrers";
      readonly reference: Reference & { readonly digest: Digest };
      readonly query: string;
    };

/**
 * Reads method and URL of a request. `registryOf` names the upstream that `ns` (containerd's mirrors send it) stands for.
 * Throws AnswerError.
 */
export function routeOf(method: string, url: string, registryOf: (ns: string | undefined) => string): Route {
  if (method !== "GET" && method !== "HEAD") {
    throw new AnswerError(405, "UNSUPPORTED", `${method}: this proxy is for pulling; want GET or HEAD`, {
      allow: "GET, HEAD",
    });
  }
  const { path, query } = splitUrl(url);
  const ns = query.get("ns") ?? undefined;
  if (path === "/v2/" || path === "/v2") {
    return { kind: "base", registry: registryOf(ns) };
  }
  query.delete("ns");
  const [, name, kind = "", selector = ""] =
    /^\/v2\/(.+)\/(manifests|blobs|referrers)\/([^/]+)$/.exec(path) ?? /^\/v2\/(.+)\/(tags)\/(list)$/.exec(path) ?? [];
  if (name === undefined) throw new AnswerError(404, "NAME_UNKNOWN", `${path.slice(0, 300)}: no such endpoint`);
  const registry = registryOf(ns);
  if (kind === "tags") return { kind, reference: named(`${registry}/${name}`), query: query.toString() };
  if (kind === "manifests") {
    const separator = selector.includes(":") ? "@" : ":";
    return { kind: "manifest", reference: named(`${registry}/${name}${separator}${selector}`) };
  }
  const reference = named(`${registry}/${name}@${selector}`);
  const { digest } = reference;
  if (digest === undefined) throw new AnswerError(400, "DIGEST_INVALID", `${selector}: want a digest`);
  if (kind === "blobs") return { kind: "blob", reference: { ...reference, digest } };
  return { kind: "referrers", reference: { ...reference, digest }, query: query.toString() };
}

/** What a failure of this route is called when the thing is not there. */
export function unknownCodeOf(route: Route | undefined): string {
  if (route?.kind === "blob") return "BLOB_UNKNOWN";
  return route?.kind === "manifest" || route?.kind === "referrers" ? "MANIFEST_UNKNOWN" : "NAME_UNKNOWN";
}

function splitUrl(url: string): { path: string; query: URLSearchParams } {
  const [raw = "", ...rest] = url.split("?");
  try {
    return { path: decodeURIComponent(raw), query: new URLSearchParams(rest.join("?")) };
  } catch {
    throw new AnswerError(400, "NAME_INVALID", "the path is not well-formed percent encoding");
  }
}

function named(text: string): Reference {
  try {
    return parseReference(text);
  } catch (error) {
    if (!isOcifsError(error, "usage")) throw error;
    throw new AnswerError(400, text.includes("@") ? "DIGEST_INVALID" : "NAME_INVALID", error.message, {}, error);
  }
}
