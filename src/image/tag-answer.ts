import { access } from "node:fs/promises";
import { isOcifsError, messageOf, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { RegistryImage } from "../blob/registry-image.js";
import { tagKeyOf, tagRecordPath } from "../cache/tag-record.js";
import type { Digest } from "../oci/digest.js";
import { parseImageSource } from "../oci/image-source.js";
import { hostPlatform, parsePlatform } from "../oci/platform.js";
import { connect, type RegistryAccess } from "./connect.js";

/** What came of asking a registry for a tag. It goes through a pipe as JSON. */
export type TagAnswer =
  | { readonly kind: "digest"; readonly digest: Digest }
  /** Nobody could be asked, see `isOutage`. */
  | { readonly kind: "outage"; readonly reason: string }
  /** The registry has spoken, but only the manifest itself or the error in its place says what. */
  | { readonly kind: "unclear" };

/** Waits some seconds at most. Throws `aborted`. */
export async function askForTag(
  image: RegistryImage,
  timeoutMs: number | undefined,
  signal?: AbortSignal,
): Promise<TagAnswer> {
  try {
    const limitMs = Math.min(limits.tagCheckMs, timeoutMs ?? limits.tagCheckMs);
    const digest = await image.fetchTagDigest(limitMs, signal);
    return digest === undefined ? { kind: "unclear" } : { kind: "digest", digest };
  } catch (error) {
    throwIfAborted(signal, image.description);
    const { isOutage } = await import("../registry/registry-error.js");
    return isOutage(error) ? { kind: "outage", reason: messageOf(error) } : { kind: "unclear" };
  }
}

/**
 * Asks on behalf of a daemon that is starting meanwhile. Undefined when there is nothing to ask: no tag, or one that the cache
 * knows nothing of; also when it cannot be asked from here, which the daemon then finds out for itself.
 */
export async function askForTagOf(
  source: RegistryAccess & { readonly source: string; readonly platform?: string; readonly cacheDir: string },
  signal: AbortSignal,
): Promise<TagAnswer | undefined> {
  try {
    const parsed = parseImageSource(source.source);
    if (parsed.kind !== "registry" || parsed.reference.digest !== undefined) return undefined;
    const platform = source.platform === undefined ? hostPlatform() : parsePlatform(source.platform);
    await access(tagRecordPath(source.cacheDir, tagKeyOf(parsed.reference, platform)));
    await using image = await connect(parsed.reference, source);
    return await askForTag(image, source.timeoutMs, signal);
  } catch (error) {
    if (isOcifsError(error) || (error instanceof Error && "code" in error)) return undefined;
    throw error;
  }
}
