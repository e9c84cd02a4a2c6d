import { OcifsError } from "../base/errors.js";
import { copyOf, type Where } from "./quote.js";

/**
 * Decoding of one 512-byte tar header block: V7, POSIX.1-1988 ustar, star, and GNU.
 *
 * tar-stream's header codec is not used: the package exports only its streams, and its decoder turns names into strings
 * (so a name that is not UTF-8 is lost), takes no signed checksum, and rounds base-256 numbers above 2^53.
 */
export const blockBytes = 512;

/** Typeflag characters as byte values. */
export const typeflags = {
  regularV7: 0,
  regular: 0x30,
  hardlink: 0x31,
  symlink: 0x32,
  char: 0x33,
  block: 0x34,
  directory: 0x35,
  fifo: 0x36,
  contiguous: 0x37,
  paxLocal: 0x78,
  paxGlobal: 0x67,
  gnuLongName: 0x4c,
  gnuLongLink: 0x4b,
  gnuSparse: 0x53,
  gnuVolume: 0x56,
} as const;

export interface TarHeader {
  /** Which fields beyond V7's are valid. */
  readonly format: "v7" | "ustar" | "gnu";
  /** Name with the ustar prefix joined, cut at the first NUL; a copy. */
  readonly name: Uint8Array;
  readonly linkName: Uint8Array;
  readonly typeflag: number;
  /** Permission bits only. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  readonly mtimeSeconds: number;
  /** 0 unless the entry is a device. */
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** Of an entry in the old GNU sparse format: the file's length with its holes. */
  readonly sparseRealSizeBytes: number | undefined;
}

/** How a header block is judged before its fields are read. */
export type BlockKind = "zero" | "header" | "bad-checksum";

const checksumOffset = 148;
const checksumBytes = 8;

/** Sums the block with the checksum field taken as spaces. Writers before POSIX summed signed bytes: both are accepted. */
export function classifyBlock(block: Uint8Array): BlockKind {
  let sum = 0;
  for (let i = 0; i < blockBytes; i++) sum += block[i] ?? 0;
  if (sum === 0) return "zero";
  for (let i = checksumOffset; i < checksumOffset + checksumBytes; i++) sum += 0x20 - (block[i] ?? 0);
  const stored = octalOf(block, checksumOffset, checksumBytes);
  if (stored === sum) return "header";
  let signed = sum;
  for (let i = 0; i < blockBytes; i++) {
    const inChecksum = i >= checksumOffset && i < checksumOffset + checksumBytes;
    if (!inChecksum && (block[i] ?? 0) > 127) signed -= 256;
  }
  return stored === signed ? "header" : "bad-checksum";
}

/**
 * The fields of a header whose checksum is right; `name` is `nameOf` it. Throws `corrupt` for a number that is none; `where` goes into
 * the message.
 */
export function decodeHeader(block: Uint8Array, name: Uint8Array, where: Where): TarHeader {
  const format = formatOf(block);
  const typeflag = block[156] ?? 0;
  const device = typeflag === typeflags.char || typeflag === typeflags.block;
  const number = (field: string, offset: number, length: number) => numberOf(block, offset, length, field, where);
  return {
    format,
    name,
    linkName: stringOf(block, 157, 100),
    typeflag,
    mode: modulo(number("mode", 100, 8), 0o10000),
    uid: number("uid", 108, 8),
    gid: number("gid", 116, 8),
    sizeBytes: number("size", 124, 12),
    mtimeSeconds: number("mtime", 136, 12),
    deviceMajor: device ? number("devmajor", 329, 8) : 0,
    deviceMinor: device ? number("devminor", 337, 8) : 0,
    sparseRealSizeBytes: typeflag === typeflags.gnuSparse ? number("realsize", 483, 12) : undefined,
  };
}

function modulo(value: number, by: number): number {
  return ((value % by) + by) % by;
}

function formatOf(block: Uint8Array): TarHeader["format"] {
  const magic = "ustar";
  for (let i = 0; i < magic.length; i++) if (block[257 + i] !== magic.charCodeAt(i)) return "v7";
  return block[262] === 0x20 && block[263] === 0x20 ? "gnu" : "ustar";
}

/** The entry's name, a copy. GNU headers keep times and sparse maps where ustar has the prefix; star shortens the prefix to make room for its own times. */
export function nameOf(block: Uint8Array): Uint8Array {
  const name = stringOf(block, 0, 100);
  if (block[345] === 0 || formatOf(block) !== "ustar") return name;
  const star = block[508] === 0x74 && block[509] === 0x61 && block[510] === 0x72 && block[511] === 0;
  const prefix = stringOf(block, 345, star ? 131 : 155);
  const joined = Buffer.allocUnsafe(prefix.length + 1 + name.length);
  joined.set(prefix);
  joined[prefix.length] = 0x2f;
  joined.set(name, prefix.length + 1);
  return joined;
}

/** A copy of a fixed-width field up to its first NUL. */
function stringOf(block: Uint8Array, offset: number, length: number): Uint8Array {
  let end = offset;
  while (end < offset + length && block[end] !== 0) end++;
  return copyOf(block, offset, end);
}

/** A numeric field: octal digits, or base-256 when the top bit of its first byte is set. Throws `corrupt` or `limit`. */
export function numberOf(block: Uint8Array, offset: number, length: number, field: string, where: Where): number {
  const base256 = ((block[offset] ?? 0) & 0x80) !== 0;
  const value = base256 ? base256Of(block, offset, length) : octalOf(block, offset, length);
  if (value === undefined) {
    const got = Buffer.from(block.subarray(offset, offset + length)).toString("latin1");
    throw new OcifsError("corrupt", `${where}: field ${field} is ${JSON.stringify(got)}, want octal digits`);
  }
  if (!Number.isSafeInteger(value)) {
    throw new OcifsError("limit", `${where}: field ${field} is larger than 2^53, which no file system of today stores`);
  }
  return value;
}

/** Octal digits between optional spaces and NULs; an empty field is 0, anything else undefined. */
function octalOf(block: Uint8Array, offset: number, length: number): number | undefined {
  const end = offset + length;
  let at = offset;
  while (at < end && (block[at] === 0x20 || block[at] === 0)) at++;
  let value = 0;
  for (; at < end; at++) {
    const byte = block[at] ?? 0;
    if (byte === 0x20 || byte === 0) break;
    if (byte < 0x30 || byte > 0x37) return undefined;
    value = value * 8 + (byte - 0x30);
  }
  return value;
}

/** GNU's base-256: big-endian two's complement, the top bit of the field being only the marker. */
function base256Of(block: Uint8Array, offset: number, length: number): number {
  const first = block[offset] ?? 0;
  const negative = (first & 0x40) !== 0;
  let value = negative ? (first & 0x7f) - 0x80 : first & 0x7f;
  for (let i = 1; i < length; i++) value = value * 256 + (block[offset + i] ?? 0);
  return value;
}
