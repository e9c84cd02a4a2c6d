import { OcifsError } from "../base/errors.js";

/** Kinds of records of native/content/tree_writer.h. */
export const treeOps = {
  directory: 1,
  directoryMetadata: 2,
  fileFromRanges: 3,
  fileFromName: 4,
  symlink: 5,
  node: 6,
  hardlink: 7,
  moveFrom: 8,
} as const;

/** Offsets in a record's fixed part. */
const at = {
  bytes: 0,
  kind: 4,
  mode: 8,
  uid: 12,
  gid: 16,
  mtimeNanoseconds: 20,
  mtimeSeconds: 24,
  size: 32,
  source: 40,
  major: 44,
  minor: 48,
  pathBytes: 52,
  linkBytes: 56,
  xattrBytes: 60,
  end: 64,
} as const;

/** What a record says of the inode. */
export interface TreeInode {
  /** File type and permission bits, as st_mode. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  readonly sizeBytes: number;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  /** Packed: u16 name length, u16 value length, full name, value, one after another. */
  readonly xattrs: Uint8Array;
}

/** A piece of a file: where it belongs, and where it is in the source. */
export interface SourceRange {
  readonly offset: number;
  readonly sizeBytes: number;
  readonly sourceOffset: number;
}

const none = new Uint8Array(0);

/** Packs records for `applyTree`. */
export class TreeRecords {
  #bytes = Buffer.allocUnsafe(64 << 10);
  #fill = 0;

  get sizeBytes(): number {
    return this.#fill;
  }

  /** All records so far; a new batch begins. */
  take(): Uint8Array {
    const bytes = this.#bytes.subarray(0, this.#fill);
    this.#bytes = Buffer.allocUnsafe(64 << 10);
    this.#fill = 0;
    return bytes;
  }

  /** `path` from the root, no leading slash; what `link` and `source` are depends on the kind. */
  add(kind: number, path: Uint8Array, inode: TreeInode, link: Uint8Array = none, source = 0): void {
    const size = at.end + path.length + link.length + inode.xattrs.length;
    this.#reserve(size);
    const bytes = this.#bytes;
    const start = this.#fill;
    bytes.writeUInt32LE(size, start + at.bytes);
    bytes.writeUInt32LE(kind, start + at.kind);
    bytes.writeUInt32LE(inode.mode, start + at.mode);
    bytes.writeUInt32LE(inode.uid, start + at.uid);
    bytes.writeUInt32LE(inode.gid, start + at.gid);
    bytes.writeUInt32LE(inode.mtimeNanoseconds, start + at.mtimeNanoseconds);
    bytes.writeBigInt64LE(BigInt(inode.mtimeSeconds), start + at.mtimeSeconds);
    bytes.writeBigUInt64LE(BigInt(inode.sizeBytes), start + at.size);
    bytes.writeUInt32LE(source, start + at.source);
    bytes.writeUInt32LE(inode.rdevMajor, start + at.major);
    bytes.writeUInt32LE(inode.rdevMinor, start + at.minor);
    bytes.writeUInt32LE(path.length, start + at.pathBytes);
    bytes.writeUInt32LE(link.length, start + at.linkBytes);
    bytes.writeUInt32LE(inode.xattrs.length, start + at.xattrBytes);
    bytes.set(path, start + at.end);
    bytes.set(link, start + at.end + path.length);
    bytes.set(inode.xattrs, start + at.end + path.length + link.length);
    this.#fill += size;
  }

  #reserve(size: number): void {
    if (this.#fill + size <= this.#bytes.length) return;
    if (size > 2 ** 31) throw new OcifsError("internal", `tree record of ${size} bytes`);
    const larger = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#fill + size));
    larger.set(this.#bytes.subarray(0, this.#fill));
    this.#bytes = larger;
  }
}

/** The `link` of a `fileFromRanges` record. */
export function packRanges(ranges: readonly SourceRange[]): Uint8Array {
  const bytes = Buffer.allocUnsafe(ranges.length * 24);
  ranges.forEach(({ offset, sizeBytes, sourceOffset }, i) => {
    bytes.writeBigUInt64LE(BigInt(offset), i * 24);
    bytes.writeBigUInt64LE(BigInt(sizeBytes), i * 24 + 8);
    bytes.writeBigUInt64LE(BigInt(sourceOffset), i * 24 + 16);
  });
  return bytes;
}
