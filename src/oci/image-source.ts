import { OcifsError } from "../base/errors.js";
import { type Digest, parseDigest } from "./digest.js";
import { isTag, parseReference, type Reference } from "./reference.js";

/** What SOURCE of mount.ocifs and IMAGE of the subcommands name. */
export type ImageSource =
  | { readonly kind: "registry"; readonly reference: Reference }
  | { readonly kind: "layout"; readonly directory: string; readonly tag?: string; readonly digest?: Digest }
  | { readonly kind: "file"; readonly path: string };

/**
 * Parses a registry reference, `oci:DIR[:tag][@digest]` (an OCI image layout directory) or `file:PATH` (one blob).
 * In `oci:`, what follows the last `:` is the tag if it has the form of one; a directory whose name ends like that is
 * written with a trailing `/`. The prefixes win over a registry host called just `oci` or `file`.
 * Throws `usage`.
 */
export function parseImageSource(text: string): ImageSource {
  if (text.startsWith("file:")) {
    const path = text.slice("file:".length);
    if (path === "") throw new OcifsError("usage", `image source "${text}": want a path after "file:"`);
    return { kind: "file", path };
  }
  if (!text.startsWith("oci:")) return { kind: "registry", reference: parseReference(text) };
  return parseLayoutSource(text);
}

function parseLayoutSource(text: string): ImageSource {
  let rest = text.slice("oci:".length);
  let digest: Digest | undefined;
  const digestMatch = /@(sha(?:256|512):[0-9a-f]+)$/.exec(rest);
  if (digestMatch?.[1] !== undefined) {
    digest = parseDigest(digestMatch[1]);
    rest = rest.slice(0, digestMatch.index);
  }
  const colon = rest.lastIndexOf(":");
  const last = rest.slice(colon + 1);
  const tag = colon >= 0 && isTag(last) ? last : undefined;
  const directory = tag === undefined ? rest : rest.slice(0, colon);
  if (directory === "") throw new OcifsError("usage", `image source "${text}": want a directory after "oci:"`);
  return {
    kind: "layout",
    directory,
    ...(tag === undefined ? {} : { tag }),
    ...(digest === undefined ? {} : { digest }),
  };
}
