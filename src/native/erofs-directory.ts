import { OcifsError } from "../base/errors.js";
import type { ErofsImage } from "./erofs.js";

/** Where a file's bytes lie: nowhere (empty, or no file), in one piece of one device, or as `ErofsImage.mapRange` tells. */
export const listedData = { none: 0, whole: 1, other: 2 } as const;

/** Offsets in a record of native/erofs/listing.h. */
const at = {
  nid: 0,
  size: 8,
  mtimeSeconds: 16,
  dataOffset: 24,
  recordSize: 32,
  mtimeNanoseconds: 36,
  uid: 40,
  gid: 44,
  nlink: 48,
  device: 52,
  rdevMajor: 56,
  rdevMinor: 60,
  dataKind: 64,
  targetSize: 68,
  xattrsSize: 72,
  mode: 76,
  nameSize: 78,
  end: 80,
} as const;

/** An entry with its largest xattrs is 260 KiB; more room saves calls. */
const bufferBytes = 1 << 20;

/** The entry a listing stands at. Every value is valid until the listing goes on, byte arrays included. */
export interface ErofsListedEntry {
  readonly nid: number;
  readonly name: Uint8Array;
  /** File type and permission bits, as st_mode. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  readonly sizeBytes: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  /** See `listedData`. */
  readonly dataKind: number;
  /** 1-based, for data of one piece. */
  readonly device: number;
  /** Byte in that device. */
  readonly dataOffset: number;
  /** Of a symbolic link, otherwise empty. */
  readonly target: Uint8Array;
  /** Packed: u16 name length, u16 value length, full name, value, one after another. */
  readonly xattrs: Uint8Array;
}

/**
 * Reads directories of an image with the inodes of their entries, one native call for many entries: for programs that read whole trees.
 */
export class ErofsDirectoryReader {
  readonly #image: ErofsImage;
  readonly #buffer = new Uint8Array(bufferBytes);
  readonly #cursor = new Cursor(this.#buffer);

  constructor(image: ErofsImage) {
    this.#image = image;
  }

  /** Calls `visit` for each entry but "." and "..", in stored order. `visit` must not read another directory. */
  forEach(nid: number, visit: (entry: ErofsListedEntry) => void): void {
    for (let cookie = 0, done = false; !done; ) {
      const page = this.#image.listDirectory(nid, cookie, this.#buffer);
      for (let start = 0; start < page.usedBytes; start += this.#cursor.recordBytes) {
        this.#cursor.start = start;
        if (this.#cursor.recordBytes < at.end)
          throw new OcifsError("internal", "EROFS listing: a record without length");
        visit(this.#cursor);
      }
      ({ cookie, done } = page);
    }
  }
}

/** Reads fields when they are asked for, so that entries cost no objects. */
class Cursor implements ErofsListedEntry {
  start = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get recordBytes(): number {
    return this.#u32(at.recordSize);
  }
  get nid(): number {
    return this.#u64(at.nid);
  }
  get mode(): number {
    return this.#u16(at.mode);
  }
  get uid(): number {
    return this.#u32(at.uid);
  }
  get gid(): number {
    return this.#u32(at.gid);
  }
  get nlink(): number {
    return this.#u32(at.nlink);
  }
  get sizeBytes(): number {
    return this.#u64(at.size);
  }
  get mtimeSeconds(): number {
    return this.#u32(at.mtimeSeconds) + this.#view.getInt32(this.start + at.mtimeSeconds + 4, true) * 2 ** 32;
  }
  get mtimeNanoseconds(): number {
    return this.#u32(at.mtimeNanoseconds);
  }
  get rdevMajor(): number {
    return this.#u32(at.rdevMajor);
  }
  get rdevMinor(): number {
    return this.#u32(at.rdevMinor);
  }
  get dataKind(): number {
    return this.#u32(at.dataKind);
  }
  get device(): number {
    return this.#u32(at.device);
  }
  get dataOffset(): number {
    return this.#u64(at.dataOffset);
  }
  get name(): Uint8Array {
    return this.#slice(at.end, this.#u16(at.nameSize));
  }
  get target(): Uint8Array {
    return this.#slice(at.end + this.#u16(at.nameSize), this.#u32(at.targetSize));
  }
  get xattrs(): Uint8Array {
    return this.#slice(at.end + this.#u16(at.nameSize) + this.#u32(at.targetSize), this.#u32(at.xattrsSize));
  }

  #u16(offset: number): number {
    return this.#view.getUint16(this.start + offset, true);
  }
  #u32(offset: number): number {
    return this.#view.getUint32(this.start + offset, true);
  }
  #u64(offset: number): number {
    return this.#u32(offset) + this.#u32(offset + 4) * 2 ** 32;
  }
  #slice(offset: number, length: number): Uint8Array {
    return this.#bytes.subarray(this.start + offset, this.start + offset + length);
  }
}
