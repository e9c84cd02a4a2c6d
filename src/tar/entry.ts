/** What one tar entry is. A contiguous file is a `file`; a GNU volume label is no entry. */
export type TarEntryType = "file" | "hardlink" | "symlink" | "char" | "block" | "directory" | "fifo";

export interface TarXattr {
  /** Full name, `user.foo`. */
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

/** A piece of a sparse file that has data; everything between pieces is a hole. */
export interface SparseSegment {
  /** Byte in the file. */
  readonly offset: number;
  readonly sizeBytes: number;
  /** Byte in the uncompressed tar. */
  readonly tarOffset: number;
}

/** One entry, with PAX and GNU extensions applied. Byte arrays are copies that stay valid. */
export interface TarEntry {
  readonly type: TarEntryType;
  /** Normalized: no leading or trailing slash, no `.` or `..`; empty for the root. */
  readonly path: Uint8Array;
  /** Hard link: normalized path of the target. Symbolic link: the target as stored. Otherwise empty. */
  readonly linkPath: Uint8Array;
  /** Permission bits, 0 to 07777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  /** Of a file: its length, holes included. Otherwise 0. */
  readonly sizeBytes: number;
  /** Of a device, otherwise 0. */
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  /** In the order of the archive, one a name. */
  readonly xattrs: readonly TarXattr[];
  /** Byte in the tar of the entry's own header (after its PAX and GNU long name headers). */
  readonly headerOffset: number;
  /** Byte in the tar of the file's first data byte; a multiple of 512. */
  readonly dataOffset: number;
  /** Present for sparse files only: ascending, not touching past `sizeBytes`, none empty. */
  readonly segments?: readonly SparseSegment[];
}
