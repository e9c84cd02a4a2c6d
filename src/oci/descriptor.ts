import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { type Digest, parseDigest } from "./digest.js";
import { asArray, asObject, asOptionalString, asString, asStringMap } from "./json.js";
import { normalizePlatform, type Platform } from "./platform.js";

/** A reference to content by digest: OCI image spec `descriptor.md`. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly annotations: ReadonlyMap<string, string>;
  /** Only in image indexes, and not always there. */
  readonly platform?: Platform;
  /** Where foreign layers live. */
  readonly urls?: readonly string[];
}

/** Checks one descriptor of a hostile document; `where` names it in messages. Throws `corrupt`, `unsupported` or `limit`. */
export function parseDescriptor(value: unknown, where: string): Descriptor {
  const object = asObject(value, where);
  const urls = object.urls;
  const platform = parseDescriptorPlatform(object.platform, `${where}.platform`);
  return {
    mediaType: asString(object.mediaType, `${where}.mediaType`),
    digest: parseDocumentDigest(object.digest, `${where}.digest`),
    sizeBytes: parseSize(object.size, `${where}.size`),
    annotations: asStringMap(object.annotations, `${where}.annotations`),
    ...(platform === undefined ? {} : { platform }),
    ...(urls === undefined || urls === null ? {} : { urls: parseUrls(urls, `${where}.urls`) }),
  };
}

/** A digest inside a document: bad ones are `corrupt`, algorithms other than SHA-2 are `unsupported`. */
export function parseDocumentDigest(value: unknown, where: string): Digest {
  const text = asString(value, where);
  const algorithm = /^([a-z0-9]+(?:[+._-][a-z0-9]+)*):[A-Za-z0-9=_-]+$/.exec(text)?.[1];
  if (algorithm !== undefined && algorithm !== "sha256" && algorithm !== "sha512") {
    throw new OcifsError("unsupported", `${where}: digest algorithm "${algorithm}"; want sha256 or sha512`);
  }
  try {
    return parseDigest(text);
  } catch (cause) {
    throw new OcifsError("corrupt", `${where}: ${messageOf(cause)}`, { cause });
  }
}

function parseSize(value: unknown, where: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw new OcifsError(
      "corrupt",
      `${where}: want a size in bytes, got ${JSON.stringify(value)?.slice(0, 40) ?? "nothing"}`,
    );
  }
  if (value > limits.blobBytes) {
    throw new OcifsError("limit", `${where}: ${value} bytes, the limit is ${limits.blobBytes}`);
  }
  return value;
}

function parseDescriptorPlatform(value: unknown, where: string): Platform | undefined {
  if (value === undefined || value === null) return undefined;
  const object = asObject(value, where);
  return normalizePlatform(
    asString(object.os, `${where}.os`),
    asString(object.architecture, `${where}.architecture`),
    asOptionalString(object.variant, `${where}.variant`),
  );
}

function parseUrls(value: unknown, where: string): readonly string[] {
  return asArray(value, where, limits.descriptorUrls).map((url, index) => asString(url, `${where}[${index}]`));
}
