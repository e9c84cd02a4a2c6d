import { addon, callNative } from "./addon.js";

/** Numbers of one entry of a scan, by their place among them. */
export const plainColumns = {
  /** 0 file, 1 directory, 2 symbolic link, 3 hard link. */
  type: 0,
  mode: 1,
  uid: 2,
  gid: 3,
  mtimeSeconds: 4,
  /** Of a file, else 0. */
  sizeBytes: 5,
  /** Bytes of `names`: the normalized path, and where its last name begins. */
  path: 6,
  pathEnd: 7,
  name: 8,
  /** Bytes of `names`: a symbolic link's target as stored, or a hard link's, normalized. */
  link: 9,
  linkEnd: 10,
  /** Byte of the scanned bytes. */
  headerOffset: 11,
  /** 1 when the path up to its last name is that of the entry before it in this scan. */
  sharesDirectory: 12,
  count: 13,
} as const;

interface Native {
  scanTarHeaders(
    bytes: Uint8Array,
    at: number,
    skip: number,
    maximum: number,
    numbers: Float64Array,
    names: Uint8Array,
    place: Float64Array,
  ): number;
}

const native = addon as unknown as Native;

/** Where the headers found by a scan go. */
export interface ScannedHeaders {
  /** `plainColumns.count` for each entry. */
  readonly numbers: Float64Array;
  readonly names: Uint8Array;
  /** Set to the byte where the scan ended, and to how many bytes of content are still to be passed over. */
  readonly place: Float64Array;
}

/**
 * Reads the headers of a tar from byte `at` on, `skip` bytes of an earlier entry's content first, and gives the number of entries found. It
 * ends before the first header that is in any way out of the ordinary, that is cut off, or for which there is no room.
 */
export function scanTarHeaders(
  bytes: Uint8Array,
  at: number,
  skip: number,
  maximum: number,
  into: ScannedHeaders,
): number {
  return callNative(() => native.scanTarHeaders(bytes, at, skip, maximum, into.numbers, into.names, into.place));
}
