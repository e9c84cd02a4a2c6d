import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import type { DanglingLink, WhiteoutMode } from "./tar-tree.js";

/** Of the JSON file. A reader refuses any other. */
export const indexFormatVersion = 2;

export interface IndexedFile {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** The JSON beside a tarindex and its zinfo: binds both to one blob, and carries what they have no room for. */
export interface IndexManifest {
  readonly version: typeof indexFormatVersion;
  /** Who wrote it, for people; nothing depends on it. */
  readonly generator: string;
  /** The blob as the registry serves it. */
  readonly blob: IndexedFile & {
    readonly encoding: "gzip" | "tar" | "zstd";
    /** From the image's manifest, if the index was made from one. */
    readonly mediaType?: string;
  };
  /** The whole uncompressed stream, padding behind the archive's end included; its digest is the diffID. */
  readonly tar: IndexedFile & {
    readonly entryCount: number;
    /** Byte behind the archive's end marker; tarindexes address no byte past it. */
    readonly endOffset: number;
    /** False when the archive just stops without its two zero blocks. */
    readonly endMarkerFound: boolean;
  };
  readonly whiteouts: WhiteoutMode;
  readonly tarindex: IndexedFile;
  /**
   * Nids in the tarindex, ascending, of directories that the tar has no entry for (the root among them). Their metadata is made up: where a
   * layer below has the directory, its metadata holds.
   */
  readonly impliedDirectories: readonly number[];
  /** Hard links to files of layers below. They are not in the tarindex: only a merge with those layers can show them. */
  readonly danglingLinks: readonly DanglingLink[];
  /** Present for a gzip blob only. */
  readonly zinfo?: IndexedFile;
  /**
   * SHA-256 of the uncompressed bytes of each span, hex. With a zinfo a span reaches from its checkpoint to the next one; otherwise
   * spans are `sizeBytes` long. The last one ends with the tar.
   */
  readonly spans: { readonly sizeBytes: number; readonly digests: readonly string[] };
}

/** A nid counts 32-byte units. */
const maximumNid = limits.tarindexBytes / 32;

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64");
}

/** The JSON's text; keys in a fixed order, so the same index gives the same bytes. */
export function serializeIndexManifest(manifest: IndexManifest): string {
  const danglingLinks = manifest.danglingLinks.map(({ path, target }) => ({
    path: base64(path),
    target: base64(target),
  }));
  return `${JSON.stringify({ ...manifest, danglingLinks }, undefined, 1)}\n`;
}

/**
 * Reads and checks the text of an index's JSON, which may come from anywhere. `where` (its path) goes into messages.
 * Throws `corrupt`, or `unsupported` for another version.
 */
export function parseIndexManifest(text: string, where: string): IndexManifest {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new OcifsError("corrupt", `index ${where}: is not JSON; create the index again`, { cause });
  }
  const root = new Fields(parsed, where, "");
  const version = root.integer("version", 2 ** 31);
  if (version !== indexFormatVersion) {
    throw new OcifsError(
      "unsupported",
      `index ${where}: format version ${version}, want ${indexFormatVersion}; create it again`,
    );
  }
  const blob = root.object("blob");
  const tar = root.object("tar");
  const mediaType = blob.optionalString("mediaType");
  const encoding = blob.oneOf("encoding", ["gzip", "tar", "zstd"]);
  const zinfo = root.optionalObject("zinfo");
  if ((zinfo !== undefined) !== (encoding === "gzip")) {
    throw root.bad("zinfo", zinfo === undefined ? "missing for a gzip blob" : "present for a blob without gzip");
  }
  const spans = root.object("spans");
  const tarSizeBytes = tar.integer("sizeBytes", limits.layerTarBytes);
  return {
    version: indexFormatVersion,
    generator: root.string("generator"),
    blob: {
      digest: blob.digest("digest"),
      sizeBytes: blob.integer("sizeBytes", limits.blobBytes),
      encoding,
      ...(mediaType === undefined ? {} : { mediaType }),
    },
    tar: {
      digest: tar.digest("digest"),
      sizeBytes: tarSizeBytes,
      entryCount: tar.integer("entryCount", limits.tarEntries),
      endOffset: tar.integer("endOffset", tarSizeBytes),
      endMarkerFound: tar.boolean("endMarkerFound"),
    },
    whiteouts: root.oneOf("whiteouts", ["keep", "overlay"]),
    tarindex: root.object("tarindex").file(limits.tarindexBytes),
    impliedDirectories: root.integers("impliedDirectories", limits.impliedDirectories, maximumNid),
    danglingLinks: root.objects("danglingLinks", limits.danglingLinkBytes).map((link) => ({
      path: link.base64("path", limits.pathBytes),
      target: link.base64("target", limits.pathBytes),
    })),
    ...(zinfo === undefined ? {} : { zinfo: zinfo.file(Number.MAX_SAFE_INTEGER) }),
    spans: { sizeBytes: spans.integer("sizeBytes", limits.layerTarBytes), digests: spans.hexDigests("digests") },
  };
}

/** Typed access to one object of untrusted JSON. */
class Fields {
  readonly #values: Record<string, unknown>;
  readonly #where: string;
  readonly #path: string;

  constructor(value: unknown, where: string, path: string) {
    this.#where = where;
    this.#path = path;
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw this.bad("", "not an object");
    this.#values = value as Record<string, unknown>;
  }

  bad(key: string, what: string): OcifsError {
    const field = `${this.#path}${key}`;
    return new OcifsError(
      "corrupt",
      `index ${this.#where}: ${field === "" ? "content" : field} is ${what}; create the index again`,
    );
  }

  #get(key: string): unknown {
    return Object.hasOwn(this.#values, key) ? this.#values[key] : undefined;
  }

  object(key: string): Fields {
    return new Fields(this.#get(key), this.#where, `${this.#path}${key}.`);
  }

  optionalObject(key: string): Fields | undefined {
    return this.#get(key) === undefined ? undefined : this.object(key);
  }

  string(key: string): string {
    const value = this.#get(key);
    if (typeof value !== "string" || value.length > 1024)
      throw this.bad(key, "not a string of at most 1024 characters");
    return value;
  }

  optionalString(key: string): string | undefined {
    return this.#get(key) === undefined ? undefined : this.string(key);
  }

  boolean(key: string): boolean {
    const value = this.#get(key);
    if (typeof value !== "boolean") throw this.bad(key, "neither true nor false");
    return value;
  }

  /** 0 to `maximum`. */
  integer(key: string, maximum: number): number {
    const value = this.#get(key);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > maximum) {
      throw this.bad(key, `not a whole number of at most ${maximum}`);
    }
    return value;
  }

  oneOf<T extends string>(key: string, values: readonly T[]): T {
    const value = this.#get(key);
    const found = values.find((v) => v === value);
    if (found === undefined) throw this.bad(key, `none of ${values.join(", ")}`);
    return found;
  }

  digest(key: string): Digest {
    try {
      return parseDigest(this.string(key));
    } catch (cause) {
      throw new OcifsError("corrupt", this.bad(key, "no digest").message, { cause });
    }
  }

  file(maximumBytes: number): IndexedFile {
    return { digest: this.digest("digest"), sizeBytes: this.integer("sizeBytes", maximumBytes) };
  }

  #list(key: string, maximum: number): readonly unknown[] {
    const value = this.#get(key);
    if (!Array.isArray(value) || value.length > maximum) throw this.bad(key, `not a list of at most ${maximum}`);
    return value;
  }

  /** Whole numbers from 0 to `maximum`. */
  integers(key: string, count: number, maximum: number): readonly number[] {
    return this.#list(key, count).map((value, i) => {
      if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > maximum) {
        throw this.bad(`${key}[${i}]`, `not a whole number of at most ${maximum}`);
      }
      return value;
    });
  }

  objects(key: string, count: number): readonly Fields[] {
    return this.#list(key, count).map((value, i) => new Fields(value, this.#where, `${this.#path}${key}[${i}].`));
  }

  /** Some bytes, at most `maximum`. */
  base64(key: string, maximum: number): Uint8Array {
    const value = this.#get(key);
    const bytes = typeof value === "string" ? Buffer.from(value, "base64") : Buffer.alloc(0);
    if (bytes.length === 0 || bytes.length > maximum || bytes.toString("base64") !== value) {
      throw this.bad(key, `not base64 of 1 to ${maximum} bytes`);
    }
    return new Uint8Array(bytes);
  }

  hexDigests(key: string): readonly string[] {
    const value = this.#get(key);
    if (!Array.isArray(value) || value.length > limits.checkpoints) {
      throw this.bad(key, `not a list of at most ${limits.checkpoints} digests`);
    }
    return value.map((digest: unknown, i) => {
      if (typeof digest !== "string" || !/^[0-9a-f]{64}$/.test(digest))
        throw this.bad(`${key}[${i}]`, "not 64 hex digits");
      return digest;
    });
  }
}
