import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { asArray, parseJsonObject } from "../oci/json.js";

const profileVersion = 1;

/** A part of a layer's uncompressed tar that was read. */
export interface ProfileRead {
  /** Since the first read of the mount, of whatever layer: puts the reads of several layers in one order. */
  readonly atMs: number;
  readonly offset: number;
  readonly length: number;
}

/**
 * What the first seconds of a mount read of one layer, each part once, in order. It is a hint: what is wrong in it costs bytes, at
 * most. It is bound to the blob, not to an image or to how an index divides the layer.
 */
export interface AccessProfile {
  readonly blob: Digest;
  /** Uncompressed size of the layer. */
  readonly tarBytes: number;
  readonly reads: readonly ProfileRead[];
}

/** Beside the tarindex, which may have any name. */
export function profilePathOf(tarindexPath: string): string {
  return `${tarindexPath.replace(/\.tarindex$/, "")}.profile`;
}

/** The text of a profile, docs/FORMATS.md: the same profile gives the same bytes. */
export function serializeProfile({ blob, tarBytes, reads }: AccessProfile): string {
  const lines = reads.map(({ atMs, offset, length }) => `  [${atMs}, ${offset}, ${length}]`);
  const list = lines.length === 0 ? "[]" : `[\n${lines.join(",\n")}\n ]`;
  return `{\n "version": ${profileVersion},\n "blob": "${blob}",\n "tarBytes": ${tarBytes},\n "reads": ${list}\n}\n`;
}

/**
 * Reads and checks a profile, which may come from anywhere, for the layer that it should be of. Throws `corrupt`, `limit`,
 * `mismatch` for a profile of another blob, `unsupported` for another version.
 */
export function parseProfile(
  bytes: Uint8Array,
  want: { readonly blob: Digest; readonly tarBytes: number },
  path: string,
): AccessProfile {
  const what = `access profile ${path}`;
  const fields = parseJsonObject(bytes, what);
  if (fields.version !== profileVersion) {
    throw new OcifsError("unsupported", `${what}: version ${brief(fields.version)}, want ${profileVersion}`);
  }
  const blob = parseDigest(String(fields.blob));
  if (blob !== want.blob || fields.tarBytes !== want.tarBytes) {
    throw new OcifsError(
      "mismatch",
      `${what}: of blob ${blob} with ${brief(fields.tarBytes)} bytes, want ${want.blob} with ${want.tarBytes}`,
    );
  }
  const reads = asArray(fields.reads, `${what}: reads`, limits.profileReads).map((entry, at): ProfileRead => {
    const numbers = asArray(entry, `${what}: read ${at}`, 3);
    const [atMs, offset, length] = numbers.map((value) =>
      typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined,
    );
    if (atMs === undefined || offset === undefined || !length || offset + length > want.tarBytes) {
      throw new OcifsError(
        "corrupt",
        `${what}: read ${at} is ${brief(JSON.stringify(entry))}, want milliseconds, offset and length within ${want.tarBytes} bytes`,
      );
    }
    return { atMs, offset, length };
  });
  return { blob, tarBytes: want.tarBytes, reads };
}

/** For a message: what was found may be of any length. */
function brief(found: unknown): string {
  return String(found).slice(0, 80);
}
