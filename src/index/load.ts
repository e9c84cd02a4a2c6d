import { type FileHandle, open } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readBoundedFrom } from "../base/read-bounded.js";
import type { Digest } from "../oci/digest.js";
import { digestOfFile } from "./files.js";
import { type IndexedFile, type IndexManifest, parseIndexManifest } from "./manifest.js";

export interface LoadIndexOptions {
  readonly tarindexPath: string;
  /** Absent when the blob is a plain tar. */
  readonly zinfoPath?: string;
  /** Absent for an index of another tool: then nothing binds the files to a blob. */
  readonly jsonPath?: string;
  /** The blob that the index is wanted for. */
  readonly blobDigest?: Digest;
  /** Unchecked: the caller will compare what he reads with `manifest.tarindex.digest`. Default: checked. */
  readonly tarindexDigest?: "checked" | "unchecked";
  readonly signal?: AbortSignal;
}

export interface LoadedIndex {
  readonly tarindexPath: string;
  readonly zinfoPath?: string;
  readonly tarindexSizeBytes: number;
  readonly zinfoSizeBytes?: number;
  readonly manifest?: IndexManifest;
  /** True when the files are those the JSON names. It says nothing about who wrote the JSON. */
  readonly verified: boolean;
}

/**
 * Checks the files of an index against its JSON: present, right digests, right blob. Throws `not-found`, `io`, `mismatch` (files of
 * different indexes, or of another blob), `corrupt` or `unsupported` (JSON). Without JSON only presence and size limits are checked.
 */
export async function loadIndex(options: LoadIndexOptions): Promise<LoadedIndex> {
  const { tarindexPath, zinfoPath, jsonPath, blobDigest, signal } = options;
  const manifest = jsonPath === undefined ? undefined : await readManifest(jsonPath);
  if (manifest !== undefined) {
    if (blobDigest !== undefined && manifest.blob.digest !== blobDigest) {
      throw new OcifsError("mismatch", `index ${jsonPath}: is of blob ${manifest.blob.digest}, want ${blobDigest}`);
    }
    if ((manifest.zinfo === undefined) !== (zinfoPath === undefined)) {
      throw new OcifsError(
        "mismatch",
        `index ${jsonPath}: is of a ${manifest.blob.encoding} layer, ${zinfoPath === undefined ? "want its zinfo too" : "which has no zinfo"}`,
      );
    }
  }
  const { tarindexDigest = "checked" } = options;
  const tarindexSizeBytes = await checkFile(tarindexPath, manifest?.tarindex, limits.tarindexBytes, {
    signal,
    digest: tarindexDigest,
  });
  const zinfoSizeBytes =
    zinfoPath === undefined
      ? undefined
      : await checkFile(zinfoPath, manifest?.zinfo, Number.MAX_SAFE_INTEGER, { signal, digest: "checked" });
  return {
    tarindexPath,
    tarindexSizeBytes,
    ...(zinfoPath === undefined ? {} : { zinfoPath }),
    ...(zinfoSizeBytes === undefined ? {} : { zinfoSizeBytes }),
    ...(manifest === undefined ? {} : { manifest }),
    verified: manifest !== undefined,
  };
}

async function readManifest(path: string): Promise<IndexManifest> {
  await using file = await openForReading(path);
  const bytes = await readBoundedFrom(file, limits.indexJsonBytes, `index ${path}`);
  return parseIndexManifest(bytes.toString("utf8"), path);
}

async function checkFile(
  path: string,
  want: IndexedFile | undefined,
  maximumBytes: number,
  check: { readonly signal: AbortSignal | undefined; readonly digest: "checked" | "unchecked" },
): Promise<number> {
  await using file = await openForReading(path);
  const { size } = await file.stat();
  if (size > maximumBytes) throw new OcifsError("limit", `index ${path}: ${size} bytes, the limit is ${maximumBytes}`);
  if (want === undefined) return size;
  if (size !== want.sizeBytes) {
    throw new OcifsError(
      "mismatch",
      `index ${path}: ${size} bytes, its JSON wants ${want.sizeBytes}; create the index again`,
    );
  }
  if (check.digest === "unchecked") return size;
  const got = await digestOfFile(file, check.signal);
  if (got.digest !== want.digest) {
    throw new OcifsError(
      "mismatch",
      `index ${path}: digest ${got.digest}, its JSON wants ${want.digest}; create the index again`,
    );
  }
  return size;
}

async function openForReading(path: string): Promise<FileHandle> {
  try {
    return await open(path, "r");
  } catch (cause) {
    const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
    throw new OcifsError(missing ? "not-found" : "io", `index ${path}: cannot open: ${messageOf(cause)}`, { cause });
  }
}
