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
const slash = 0x2f;
/** A batch, mostly. */
const FIRST_BYTES = 80 << 10;

/** Packs records for `applyTree`. */
export class TreeRecords {
  #bytes = new Uint8Array(FIRST_BYTES);
  #view = new DataView(this.#bytes.buffer);
  #fill = 0;

  get sizeBytes(): number {
    return this.#fill;
  }

  /** All records so far; a new batch begins. */
  take(): Uint8Array {
    const bytes = this.#bytes.subarray(0, this.#fill);
    this.#use(new Uint8Array(FIRST_BYTES));
    this.#fill = 0;
    return bytes;
  }

  /**
   * `name` in the directory of this path from the root, which has no leading slash and is empty for the root itself; what `link` and
   * `source` are depends on the kind.
   */
  add(
    kind: number,
    directory: Uint8Array,
    name: Uint8Array,
    inode: TreeInode,
    link: Uint8Array = none,
    source = 0,
  ): void {
    const { xattrs } = inode;
    const slashes = directory.length > 0 && name.length > 0 ? 1 : 0;
    const pathBytes = directory.length + slashes + name.length;
    const size = at.end + pathBytes + link.length + xattrs.length;
    this.#reserve(size);
    const view = this.#view;
    const start = this.#fill;
    view.setUint32(start + at.bytes, size, true);
    view.setUint32(start + at.kind, kind, true);
    view.setUint32(start + at.mode, inode.mode, true);
    view.setUint32(start + at.uid, inode.uid, true);
    view.setUint32(start + at.gid, inode.gid, true);
    view.setUint32(start + at.mtimeNanoseconds, inode.mtimeNanoseconds, true);
    setInt64(view, start + at.mtimeSeconds, inode.mtimeSeconds);
    setInt64(view, start + at.size, inode.sizeBytes);
    view.setUint32(start + at.source, source, true);
    view.setUint32(start + at.major, inode.rdevMajor, true);
    view.setUint32(start + at.minor, inode.rdevMinor, true);
    view.setUint32(start + at.pathBytes, pathBytes, true);
    view.setUint32(start + at.linkBytes, link.length, true);
    view.setUint32(start + at.xattrBytes, xattrs.length, true);
    let end = start + at.end;
    const bytes = this.#bytes;
    bytes.set(directory, end);
    end += directory.length;
    if (slashes > 0) bytes[end++] = slash;
    bytes.set(name, end);
    end += name.length;
    if (link.length > 0) bytes.set(link, end);
    if (xattrs.length > 0) bytes.set(xattrs, end + link.length);
    this.#fill += size;
  }

  #reserve(size: number): void {
    if (this.#fill + size <= this.#bytes.length) return;
    if (size > 2 ** 31) throw new OcifsError("internal", `tree record of ${size} bytes`);
    const larger = new Uint8Array(Math.max(this.#bytes.length * 2, this.#fill + size));
    larger.set(this.#bytes.subarray(0, this.#fill));
    this.#use(larger);
  }

  #use(bytes: Uint8Array<ArrayBuffer>): void {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }
}

/** Little endian, exact up to 2^53 either way; a BigInt would cost an object. */
function setInt64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setInt32(offset + 4, Math.floor(value / 2 ** 32), true);
}

/** The `link` of a `fileFromRanges` record. */
export function packRanges(ranges: readonly SourceRange[]): Uint8Array {
  const bytes = new Uint8Array(ranges.length * 24);
  const view = new DataView(bytes.buffer);
  ranges.forEach(({ offset, sizeBytes, sourceOffset }, i) => {
    setInt64(view, i * 24, offset);
    setInt64(view, i * 24 + 8, sizeBytes);
    setInt64(view, i * 24 + 16, sourceOffset);
  });
  return bytes;
}
