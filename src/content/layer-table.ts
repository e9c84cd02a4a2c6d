import { createHash } from "node:crypto";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { LayerDevice } from "../layer/layer-device.js";
import type { Digest } from "../oci/digest.js";
import type { TarEntry } from "../tar/entry.js";
import { TarWalker } from "../tar/walker.js";

const PIECE_BYTES = 1 << 20;

/**
 * Files of at most this many bytes are not kept by themselves: on disk each would take a block, and copying one costs less than
 * opening it.
 */
export const INLINE_BYTES = 4096;

/** Where the contents of a layer's regular files lie in its tar, in the order of the tar. Empty and sparse files are left out. */
export interface FileTable {
  readonly tarBytes: number;
  readonly offsets: Float64Array;
  readonly sizes: Float64Array;
}

/** Calls `visit` with each entry of a layer, read through once. Throws what the walker throws. */
export async function walkLayer(
  device: LayerDevice,
  visit: (entry: TarEntry) => void,
  signal?: AbortSignal,
): Promise<void> {
  const walker = new TarWalker(visit);
  for (let at = 0; at < device.sizeBytes; at += PIECE_BYTES) {
    throwIfAborted(signal, "layer");
    walker.push(await device.read(at, PIECE_BYTES, signal));
  }
  walker.finish();
}

/** Finds the files of a layer: one pass over its tar. Memory: 16 bytes a file. */
export async function readFileTable(device: LayerDevice, signal?: AbortSignal): Promise<FileTable> {
  const offsets: number[] = [];
  const sizes: number[] = [];
  await walkLayer(
    device,
    ({ type, segments, sizeBytes, dataOffset }) => {
      if (type !== "file" || segments || sizeBytes === 0) return;
      offsets.push(dataOffset);
      sizes.push(sizeBytes);
    },
    signal,
  );
  return { tarBytes: device.sizeBytes, offsets: Float64Array.from(offsets), sizes: Float64Array.from(sizes) };
}

/** The file whose content begins at this byte of the tar, or -1. */
export function fileAt({ offsets }: FileTable, offset: number): number {
  let low = 0;
  let high = offsets.length - 1;
  while (low <= high) {
    const middle = (low + high) >>> 1;
    const found = offsets[middle] ?? 0;
    if (found === offset) return middle;
    if (found < offset) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

/** The table of a content store: digests of the files that are kept by themselves, 32 bytes each, zeros for the others. */
export interface ContentTable extends FileTable {
  readonly digests: Buffer;
}

const magic = Buffer.from("ocifsct\0", "latin1");
const headerBytes = 176;
const digestAt = 32;
const recordBytes = 48;
const checkBytes = 32;

/** The size of a table of so many files. */
export function contentTableBytes(files: number): number {
  return headerBytes + files * recordBytes + checkBytes;
}

/** Layout: docs/FORMATS.md, "Content stores". */
export function encodeContentTable(table: ContentTable, tarDigest: Digest): Buffer {
  const count = table.offsets.length;
  const bytes = Buffer.alloc(contentTableBytes(count));
  magic.copy(bytes);
  bytes.writeUInt32LE(1, 8);
  bytes.writeBigUInt64LE(BigInt(table.tarBytes), 16);
  bytes.writeBigUInt64LE(BigInt(count), 24);
  bytes.write(tarDigest, digestAt, "latin1");
  for (let i = 0; i < count; i++) {
    const at = headerBytes + i * recordBytes;
    bytes.writeBigUInt64LE(BigInt(table.offsets[i] ?? 0), at);
    bytes.writeBigUInt64LE(BigInt(table.sizes[i] ?? 0), at + 8);
    table.digests.copy(bytes, at + 16, i * 32, i * 32 + 32);
  }
  createHash("sha256")
    .update(bytes.subarray(0, -checkBytes))
    .digest()
    .copy(bytes, bytes.length - checkBytes);
  return bytes;
}

/** Throws `corrupt` for bytes that are no table, or one that was damaged; `mismatch` for one of another tar. */
export function decodeContentTable(bytes: Buffer, tarDigest: Digest, what: string): ContentTable {
  const corrupt = (why: string) => new OcifsError("corrupt", `${what}: ${why}`);
  if (bytes.length < headerBytes + checkBytes || !bytes.subarray(0, 8).equals(magic))
    throw corrupt("is no content table");
  const body = bytes.subarray(0, -checkBytes);
  if (!createHash("sha256").update(body).digest().equals(bytes.subarray(-checkBytes)))
    throw corrupt("has a wrong checksum");
  if (bytes.readUInt32LE(8) !== 1) throw corrupt(`version ${bytes.readUInt32LE(8)}, want 1`);
  const count = Number(bytes.readBigUInt64LE(24));
  if (count > limits.tarEntries || body.length !== headerBytes + count * recordBytes)
    throw corrupt("has another length than its count");
  const found = bytes.toString("latin1", digestAt, headerBytes).replace(/\0+$/, "");
  if (found !== tarDigest) throw new OcifsError("mismatch", `${what}: of tar ${found}, want ${tarDigest}`);
  const table = {
    tarBytes: Number(bytes.readBigUInt64LE(16)),
    offsets: new Float64Array(count),
    sizes: new Float64Array(count),
    digests: Buffer.alloc(count * 32),
  };
  for (let i = 0; i < count; i++) {
    const at = headerBytes + i * recordBytes;
    table.offsets[i] = Number(bytes.readBigUInt64LE(at));
    table.sizes[i] = Number(bytes.readBigUInt64LE(at + 8));
    bytes.copy(table.digests, i * 32, at + 16, at + recordBytes);
  }
  return table;
}

/** `xx/rest`, as composefs names objects, of the i-th file. Undefined for one that is not kept by itself. */
export function objectNameOf(table: ContentTable, i: number): string | undefined {
  if ((table.sizes[i] ?? 0) <= INLINE_BYTES) return undefined;
  return objectName(table.digests.subarray(i * 32, i * 32 + 32));
}

export function objectName(digest: Buffer): string {
  const hex = digest.toString("hex");
  return `${hex.slice(0, 2)}/${hex.slice(2)}`;
}
