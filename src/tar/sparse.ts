import { OcifsError } from "../base/errors.js";
import type { SparseSegment } from "./entry.js";
import { blockBytes, numberOf } from "./header.js";
import type { Where } from "./quote.js";

/** Where a sparse file has data, before its place in the archive is known. */
export interface SparsePiece {
  readonly offset: number;
  readonly sizeBytes: number;
}

/** Bytes of one (offset, numbytes) pair in the old GNU format. */
const pairBytes = 24;
/** The old GNU format: 4 pairs in the header, 21 in each extension block, then a byte that says whether another block follows. */
export const oldGnuHeaderMap = { offset: 386, pairs: 4, moreAt: 482 } as const;
export const oldGnuExtensionMap = { offset: 0, pairs: 21, moreAt: 504 } as const;

/** The pairs of one block of the old GNU format, up to the first unused one. */
export function oldGnuPieces(block: Uint8Array, map: { offset: number; pairs: number }, where: Where): SparsePiece[] {
  const pieces: SparsePiece[] = [];
  for (let i = 0; i < map.pairs; i++) {
    const at = map.offset + i * pairBytes;
    if (block[at] === 0) break;
    pieces.push({
      offset: numberOf(block, at, 12, "sparse offset", where),
      sizeBytes: numberOf(block, at + 12, 12, "sparse numbytes", where),
    });
  }
  return pieces;
}

/** PAX 0.1: `offset,size,offset,size,…`; also used for 0.0 once its records are joined. */
export function piecesOfList(numbers: readonly string[], where: Where): SparsePiece[] {
  if (numbers.length % 2 !== 0) throw new OcifsError("corrupt", `${where}: sparse map has an odd count of numbers`);
  const pieces: SparsePiece[] = [];
  for (let i = 0; i < numbers.length; i += 2) {
    pieces.push({ offset: decimal(numbers[i] ?? "", where), sizeBytes: decimal(numbers[i + 1] ?? "", where) });
  }
  return pieces;
}

/**
 * PAX 1.0: the map stands before the data, as lines: a count, then offset and size of each piece; padded to a block.
 */
export class SparseMapReader {
  readonly #blocks: Uint8Array[] = [];
  #newlines = 0;
  /** Lines the map has, once its first line was read. */
  #lines: number | undefined;

  get bytes(): number {
    return this.#blocks.length * blockBytes;
  }

  /** Takes the map's next block (copied); gives the pieces once the map is complete. Throws `corrupt`. */
  push(block: Uint8Array, where: Where): SparsePiece[] | undefined {
    this.#blocks.push(new Uint8Array(block));
    for (let at = block.indexOf(0x0a); at !== -1; at = block.indexOf(0x0a, at + 1)) this.#newlines++;
    if (this.#newlines === 0)
      throw new OcifsError("corrupt", `${where}: sparse map without a line end in ${blockBytes} bytes`);
    this.#lines ??= 1 + 2 * decimal(firstLine(this.#blocks[0] ?? block), where);
    if (this.#newlines < this.#lines) return undefined;
    const lines = Buffer.concat(this.#blocks).toString("latin1").split("\n", this.#lines);
    return piecesOfList(lines.slice(1), where);
  }
}

function firstLine(block: Uint8Array): string {
  return Buffer.from(block.subarray(0, Math.max(0, block.indexOf(0x0a)))).toString("latin1");
}

function decimal(text: string, where: Where): number {
  const value = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new OcifsError("corrupt", `${where}: sparse map holds ${JSON.stringify(text.slice(0, 40))}, want a number`);
  }
  return value;
}

/**
 * Places the pieces in the archive, where their data follows each other from `dataOffset`. Throws `corrupt` unless they ascend, lie
 * inside the file and add up to `dataBytes`; `unsupported` when a piece before the last does not fill whole blocks: GNU tar then
 * pads it to a block and other readers do not, so its bytes cannot be placed with certainty.
 */
export function placePieces(
  pieces: readonly SparsePiece[],
  sizeBytes: number,
  dataOffset: number,
  dataBytes: number,
  where: Where,
): SparseSegment[] {
  const segments: SparseSegment[] = [];
  let fileEnd = 0;
  let used = 0;
  for (const piece of pieces) {
    if (piece.offset < fileEnd || piece.offset + piece.sizeBytes > sizeBytes) {
      throw new OcifsError("corrupt", `${where}: sparse map overlaps itself or leaves the file's ${sizeBytes} bytes`);
    }
    fileEnd = piece.offset + piece.sizeBytes;
    if (piece.sizeBytes === 0) continue;
    if (used % blockBytes !== 0) {
      throw new OcifsError("unsupported", `${where}: sparse file with pieces that do not fill whole 512-byte blocks`);
    }
    segments.push({ offset: piece.offset, sizeBytes: piece.sizeBytes, tarOffset: dataOffset + used });
    used += piece.sizeBytes;
  }
  if (used !== dataBytes) {
    throw new OcifsError("corrupt", `${where}: sparse map covers ${used} bytes, the archive holds ${dataBytes}`);
  }
  return segments;
}
