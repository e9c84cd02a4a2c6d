import { type FileHandle, open } from "node:fs/promises";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { readZinfoTable } from "../native/inflate.js";

/** Bytes of deflate history before a checkpoint. */
export const windowSizeBytes = 32768;
const headerSizeBytes = 12;
const recordSizeBytes = 17 + windowSizeBytes;
/** A gzip header without optional fields; version 1 assumes it for checkpoint 0. */
const gzipHeaderSizeBytes = 10;
/** CRC-32 and length behind every deflate stream. */
const gzipTrailerSizeBytes = 8;
/** Deflate's best: a match of 258 bytes in two bits. */
export const deflateMaxRatio = 1032;

/**
 * An open zinfo, the checkpoint file of erofs-utils and SOCI. Little-endian, packed: u32 count, u64 span size, then a record
 * for each checkpoint: u64 in, u64 out, u8 bits, 32768 bytes of window. Version 1 leaves out the record of checkpoint 0
 * (in 10, out 0, bits 0); only the file's length tells the versions apart. Windows stay in the file.
 */
export interface Zinfo extends AsyncDisposable {
  readonly fd: number;
  readonly version: 1 | 2;
  /** As its writer noted it; nothing here relies on it. */
  readonly spanSizeBytes: number;
  readonly checkpointCount: number;
  /** Offset of the first compressed byte all of whose bits are still to come, by checkpoint. */
  readonly in: Float64Array;
  /** Uncompressed offset. */
  readonly out: Float64Array;
  /** How many high bits of byte `in - 1` are still to come. */
  readonly bits: Uint8Array;
  /** Where in the file the 32768 bytes before checkpoint `i` are; -1 for checkpoint 0, whose window has no meaning. */
  windowOffset(i: number): number;
}

/** The checkpoints of a zinfo without its file, as `checkZinfoTable` and `SpanIndex` take them. */
export type CheckpointTable = Pick<Zinfo, "in" | "out" | "bits">;

/**
 * Opens a zinfo file and checks its table against the blob's size. Errors: `corrupt` (its length fits no version, offsets run
 * backwards or faster than deflate can), `mismatch` (checkpoints beyond the blob), `limit`, `io`.
 */
export async function openZinfo(path: string, { blobSizeBytes }: { readonly blobSizeBytes: number }): Promise<Zinfo> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (cause) {
    throw new OcifsError("io", `zinfo ${path}: cannot be opened`, { cause });
  }
  try {
    return await readZinfo(file, path, blobSizeBytes);
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function readZinfo(file: FileHandle, name: string, blobSizeBytes: number): Promise<Zinfo> {
  const { size } = await file.stat();
  const header = Buffer.alloc(headerSizeBytes);
  const { bytesRead } = await file.read(header, 0, headerSizeBytes, 0);
  if (bytesRead < headerSizeBytes) {
    throw new OcifsError("corrupt", `zinfo ${name}: ${size} bytes are less than its header of ${headerSizeBytes}`);
  }
  const count = header.readUInt32LE(0);
  const spanSizeBytes = header.readBigUInt64LE(4);
  if (count === 0) throw new OcifsError("corrupt", `zinfo ${name}: it has no checkpoints`);
  if (count > limits.checkpoints) {
    throw new OcifsError("limit", `zinfo ${name}: ${count} checkpoints, the limit is ${limits.checkpoints}`);
  }
  if (spanSizeBytes > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new OcifsError("corrupt", `zinfo ${name}: a span size of ${spanSizeBytes} bytes is impossible`);
  }
  const version = versionOf(size, count);
  if (version === undefined) {
    throw new OcifsError(
      "corrupt",
      `zinfo ${name}: ${count} checkpoints need ${headerSizeBytes + count * recordSizeBytes} bytes, ` +
        `or one record of ${recordSizeBytes} less, but it has ${size}`,
    );
  }
  const implied = version === 1 ? 1 : 0;
  const stored = await readZinfoTable(file.fd, count - implied);
  const table = implied === 0 ? stored : withImpliedCheckpoint(stored);
  checkZinfoTable(table, name, blobSizeBytes);
  return {
    ...table,
    fd: file.fd,
    version,
    spanSizeBytes: Number(spanSizeBytes),
    checkpointCount: count,
    windowOffset: (i) => (i === 0 ? -1 : headerSizeBytes + (i - implied) * recordSizeBytes + 17),
    [Symbol.asyncDispose]: () => file.close(),
  };
}

function versionOf(size: number, count: number): 1 | 2 | undefined {
  if (size === headerSizeBytes + count * recordSizeBytes) return 2;
  return size === headerSizeBytes + (count - 1) * recordSizeBytes ? 1 : undefined;
}

function withImpliedCheckpoint(stored: CheckpointTable): CheckpointTable {
  const count = stored.in.length + 1;
  const table = { in: new Float64Array(count), out: new Float64Array(count), bits: new Uint8Array(count) };
  table.in.set(stored.in, 1);
  table.out.set(stored.out, 1);
  table.bits.set(stored.bits, 1);
  table.in[0] = gzipHeaderSizeBytes;
  return table;
}

/**
 * What every table must keep to: checkpoint 0 at output 0 on a byte boundary behind a gzip header; bits 0 to 7; compressed
 * positions (in bits) strictly increasing; output offsets not decreasing (equal ones frame an empty gzip member) and at most
 * 1032 times as fast as the compressed ones; a trailer's room behind the last. Names the first record that does not.
 */
export function checkZinfoTable(table: CheckpointTable, name: string, blobSizeBytes: number): void {
  const count = table.in.length;
  const corrupt = (i: number, what: string) => new OcifsError("corrupt", `zinfo ${name}: checkpoint ${i} ${what}`);
  for (let i = 0; i < count; i++) {
    const compressed = table.in[i] ?? 0;
    const uncompressed = table.out[i] ?? 0;
    const bits = table.bits[i] ?? 0;
    if (bits > 7) throw corrupt(i, `has ${bits} odd bits, more than 7`);
    if (compressed < gzipHeaderSizeBytes)
      throw corrupt(i, `lies at compressed byte ${compressed}, inside the gzip header`);
    if (compressed + gzipTrailerSizeBytes > blobSizeBytes) {
      throw new OcifsError(
        "mismatch",
        `zinfo ${name}: checkpoint ${i} lies at compressed byte ${compressed} of a blob of ${blobSizeBytes} bytes; ` +
          "it was made for another blob",
      );
    }
    if (i === 0) {
      if (uncompressed !== 0) throw corrupt(i, `lies at uncompressed byte ${uncompressed}, not 0`);
      if (bits !== 0) throw corrupt(i, `has ${bits} odd bits, but a deflate stream starts on a whole byte`);
      continue;
    }
    const inBefore = table.in[i - 1] ?? 0;
    const outBefore = table.out[i - 1] ?? 0;
    if (compressed * 8 - bits <= inBefore * 8 - (table.bits[i - 1] ?? 0)) {
      throw corrupt(i, `lies at compressed byte ${compressed}, not behind the one before it at ${inBefore}`);
    }
    if (uncompressed < outBefore) {
      throw corrupt(i, `lies at uncompressed byte ${uncompressed}, before the one before it at ${outBefore}`);
    }
    if (uncompressed - outBefore > deflateMaxRatio * (compressed - inBefore + 1)) {
      throw corrupt(i, `is ${uncompressed - outBefore} bytes behind the one before it, more than deflate can pack`);
    }
  }
}

/** One record, with its window of 32768 bytes. */
export interface Checkpoint {
  readonly in: number;
  readonly out: number;
  readonly bits: number;
  readonly window: Uint8Array;
}

/** The bytes of a zinfo; checks nothing but the windows' size. Version 1 leaves the first checkpoint out. */
export function encodeZinfo(checkpoints: readonly Checkpoint[], spanSizeBytes: number, version: 1 | 2 = 2): Uint8Array {
  const records = version === 1 ? checkpoints.slice(1) : checkpoints;
  const bytes = Buffer.alloc(headerSizeBytes + records.length * recordSizeBytes);
  bytes.writeUInt32LE(checkpoints.length, 0);
  bytes.writeBigUInt64LE(BigInt(spanSizeBytes), 4);
  for (const [i, checkpoint] of records.entries()) {
    if (checkpoint.window.length !== windowSizeBytes) {
      throw new OcifsError("usage", `zinfo: a window of ${checkpoint.window.length} bytes, want ${windowSizeBytes}`);
    }
    const at = headerSizeBytes + i * recordSizeBytes;
    bytes.writeBigUInt64LE(BigInt(checkpoint.in), at);
    bytes.writeBigUInt64LE(BigInt(checkpoint.out), at + 8);
    bytes.writeUInt8(checkpoint.bits, at + 16);
    bytes.set(checkpoint.window, at + 17);
  }
  return bytes;
}
