import { limits } from "../base/limits.js";
import { blockBits, blockBytes, chunk } from "./format.js";

/** Bytes [offset, offset + sizeBytes) of a file are those from `deviceOffset` of its device; what no extent covers is a hole. */
export interface DataExtent {
  readonly offset: number;
  readonly sizeBytes: number;
  readonly deviceOffset: number;
}

/** Smallest number of bits, at least a block's, whose power of two is not below `sizeBytes`; EROFS stops at 1 TiB. */
export function chunkBitsOfWhole(sizeBytes: number): number {
  let bits = blockBits;
  while (bits < chunk.maximumBits && 2 ** bits < sizeBytes) bits++;
  return bits;
}

/**
 * The largest chunk (log2 of its bytes) that describes a file of these ascending extents exactly: every border between data and
 * hole must fall between two chunks. Undefined when there is none: a border inside a 512-byte block, an address that is not
 * a multiple of 512, or more than limits.sparseChunks chunks.
 */
export function chunkBitsOfExtents(sizeBytes: number, extents: readonly DataExtent[]): number | undefined {
  let bits = chunkBitsOfWhole(sizeBytes);
  for (const { offset, sizeBytes: length, deviceOffset } of extents) {
    const end = offset + length;
    if (deviceOffset % blockBytes !== 0) return undefined;
    if (end > sizeBytes) return undefined;
    while (bits >= blockBits && (offset % 2 ** bits !== 0 || (end % 2 ** bits !== 0 && end !== sizeBytes))) bits--;
    if (bits < blockBits) return undefined;
  }
  return Math.ceil(sizeBytes / 2 ** bits) > Math.max(limits.sparseChunks, Math.ceil(sizeBytes / 2 ** chunk.maximumBits))
    ? undefined
    : bits;
}
