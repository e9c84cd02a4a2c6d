import { open } from "node:fs/promises";
import { join } from "node:path";
import type { Digest } from "../oci/digest.js";
import { type CachedBlob, isInUse } from "./cached-blobs.js";
import { CompressedFile } from "./compressed-file.js";

/** Of `spans`; docs/FORMATS.md. */
export const SPANS_HEADER_BYTES = 4096;
const PRESENT = 1;
const READ_BYTES = 64 << 10;

/** What one blob's cache files hold, for people. Sizes are bytes. */
export interface BlobReport {
  readonly digest: Digest;
  /** Of the blob as served; null when none of it was ever fetched. */
  readonly blobBytes: number | null;
  /** Of that, in the cache. */
  readonly fetchedBytes: number;
  /** Of the uncompressed tar; of the largest file when several indexes divide it. */
  readonly dataBytes: number;
  /** Everything of this blob, on disk. */
  readonly allocatedBytes: number;
  readonly spans: number;
  readonly presentSpans: number;
  /** Files that were once found whole and right, and are marked so. */
  readonly verified: readonly string[];
  readonly inUse: boolean;
  readonly pinned: boolean;
  /** ISO 8601; null when it is not known. */
  readonly lastUsed: string | null;
}

export async function describeBlob(blob: CachedBlob): Promise<BlobReport> {
  const { files, path } = blob;
  const named = (prefix: string) => files.filter(({ name }) => name.startsWith(prefix) && !name.endsWith(".verified"));
  const states = await Promise.all(named("spans-").map(({ name }) => countSpans(join(path, name))));
  const compressed = files.find(({ name }) => name === "compressed");
  return {
    digest: blob.digest,
    blobBytes: compressed?.apparentBytes ?? null,
    fetchedBytes: await fetchedBytes(join(path, "compressed")),
    dataBytes: Math.max(0, ...named("data-").map((file) => file.apparentBytes)),
    allocatedBytes: files.reduce((sum, file) => sum + file.allocatedBytes, 0),
    spans: states.reduce((sum, each) => sum + each.spans, 0),
    presentSpans: states.reduce((sum, each) => sum + each.present, 0),
    verified: files.filter(({ name }) => name.endsWith(".verified")).map(({ name }) => name.slice(0, -9)),
    inUse: await isInUse(path),
    pinned: blob.pinned,
    lastUsed: blob.lastUsedMs === 0 ? null : new Date(blob.lastUsedMs).toISOString(),
  };
}

async function fetchedBytes(path: string): Promise<number> {
  const file = await CompressedFile.openExisting(path);
  if (!file) return 0;
  await using _ = file;
  return file.presentBytes();
}

/** Reads the state bytes a piece at a time: a layer of 1 TiB has a million. */
async function countSpans(path: string): Promise<{ spans: number; present: number }> {
  await using file = await open(path, "r");
  const { size } = await file.stat();
  const buffer = Buffer.alloc(READ_BYTES);
  let present = 0;
  for (let at = SPANS_HEADER_BYTES; at < size; ) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
    if (bytesRead === 0) break;
    for (const state of buffer.subarray(0, bytesRead)) present += Number(state === PRESENT);
    at += bytesRead;
  }
  return { spans: Math.max(0, size - SPANS_HEADER_BYTES), present };
}
