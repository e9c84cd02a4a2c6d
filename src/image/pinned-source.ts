import type { Digest } from "../oci/digest.js";
import { parseImageSource } from "../oci/image-source.js";
import { formatReference } from "../oci/reference.js";

/** The same source, meaning this manifest whatever its tag means by now. A `file:` is its bytes and needs no pin. */
export function pinSource(source: string, manifest: Digest): string {
  const parsed = parseImageSource(source);
  if (parsed.kind === "registry") return formatReference({ ...parsed.reference, digest: manifest });
  if (parsed.kind === "file") return source;
  const { directory, tag } = parsed;
  // Without a tag, a directory whose name ends like one is written with a slash.
  return `oci:${directory}${tag === undefined ? "/" : `:${tag}`}@${manifest}`;
}
