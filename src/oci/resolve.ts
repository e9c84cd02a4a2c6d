import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Descriptor } from "./descriptor.js";
import type { Digest } from "./digest.js";
import { choosePlatform, parseManifest } from "./manifest.js";
import type { Platform } from "./platform.js";
import type { ResolvedImage } from "./resolved-image.js";
import { checkContent } from "./verify.js";

/** What a tag, a digest or a layout's entry leads to first. Its digest has been checked, or computed from the bytes. */
export interface RootDocument {
  readonly bytes: Uint8Array;
  readonly digest: Digest;
  /** The media type it was announced with. */
  readonly declaredType: string | undefined;
}

/**
 * Follows indexes from a root document to the manifest that serves `platform` best. `read` gets the bytes of an entry;
 * size and digest are checked here. A root that is a single manifest is taken whatever its platform.
 */
export async function resolveImage(
  root: RootDocument,
  platform: Platform,
  what: string,
  read: (descriptor: Descriptor, what: string) => Promise<Uint8Array>,
): Promise<ResolvedImage> {
  let document = root;
  const documents: { readonly digest: Digest; readonly bytes: Uint8Array }[] = [];
  let name = what;
  for (let depth = 0; depth <= limits.indexDepth; depth++) {
    const manifest = parseManifest(document.bytes, name, document.declaredType);
    documents.push({ digest: document.digest, bytes: document.bytes });
    if (manifest.kind === "manifest") {
      const { digest: manifestDigest, bytes: manifestBytes } = document;
      return { rootDigest: root.digest, manifestDigest, manifestBytes, manifest, documents };
    }
    const chosen = choosePlatform(manifest, platform, name);
    name = `${what}: manifest ${chosen.digest}`;
    const bytes = await read(chosen, name);
    checkContent(bytes, chosen, name);
    document = { bytes, digest: chosen.digest, declaredType: chosen.mediaType };
  }
  throw new OcifsError("limit", `${what}: image indexes nested deeper than ${limits.indexDepth}`);
}
