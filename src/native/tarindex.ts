import { limits } from "../base/limits.js";
import { addon, callNative } from "./addon.js";
import type { ScannedHeaders } from "./tar.js";

/** Byte strings under numbers counted from 0. */
export interface ByteStringColumns {
  readonly count: number;
  readonly bytes: Uint8Array;
  readonly offsets: Float64Array;
  readonly lengths: Uint32Array;
}

/** Names in directories. Arrays may be longer than their count, here and below. */
export interface EntryColumns {
  readonly entryCount: number;
  readonly names: Uint8Array;
  readonly nameOffset: Uint32Array;
  readonly nameBytes: Uint8Array;
  readonly parent: Int32Array;
  /** -1: absent. */
  readonly inode: Int32Array;
  readonly firstChild: Int32Array;
  readonly nextSibling: Int32Array;
}

export interface InodeColumns {
  readonly inodeCount: number;
  readonly mode: Uint16Array;
  readonly uid: Uint32Array;
  readonly gid: Uint32Array;
  readonly mtimeSeconds: Float64Array;
  readonly mtimeNanoseconds: Uint32Array;
  readonly sizeBytes: Float64Array;
  /** File: where its only extent begins, or -1. Symlink: its target's number. Device: rdev. */
  readonly data: Float64Array;
  readonly device: Uint16Array;
  /** Number of the xattr area, or -1. */
  readonly xattrs: Int32Array;
  readonly targets: ByteStringColumns;
  /** Files that are not one piece: offset, size and byte in the device for each. */
  readonly pieces: readonly { readonly inode: number; readonly numbers: Float64Array }[];
}

/** A tree of names over inodes, as `FileTree` keeps it. */
export interface TreeColumns extends EntryColumns, InodeColumns {
  readonly xattrAreas: ByteStringColumns;
}

/** Where everything of a tarindex goes, and its bytes. The tree must not change before the last of them. */
export interface PlannedTarindex {
  /** On-disk inode numbers by inode of the tree; 0 for inodes without a name. */
  readonly nids: Uint32Array;
  readonly sizeBytes: number;
  /** Inodes with a name. */
  readonly inodeCount: number;
  readonly epochSeconds: number;
  readonly epochNanoseconds: number;
  readonly hasXattrs: boolean;
  /**
   * The next bytes, about 256 KiB, or undefined after the last. Superblock and device table are zeros, in the first piece. `deviceBlocks`: size
   * of each device in blocks of 512 bytes; a file that ends behind its device is `internal`.
   */
  next(deviceBlocks: Float64Array): Uint8Array | undefined;
}

/** A tree that native code adds to, and where it looks names up. All arrays of a kind are equally long, and used up to the counts. */
export interface GrowingColumns extends EntryColumns, InodeColumns {
  readonly depth: Uint16Array;
  /** Open addressing over (parent, name), -1 free. */
  readonly slots: Int32Array;
  readonly targets: ByteStringColumns & { readonly slots: Int32Array };
  readonly hashSeed: number;
  readonly maximumDepth: number;
  /** Bytes of names, entries, inodes, bytes of targets, targets; changed to what it comes to. */
  readonly used: Float64Array;
}

interface Native {
  appendPlain(
    columns: GrowingColumns,
    scanned: ScannedHeaders,
    from: number,
    count: number,
    base: number,
    device: number,
  ): number;
  planTarindex(
    columns: TreeColumns,
    deviceCount: number,
    limits: { tarindexBytes: number; sparseChunks: number },
  ): PlannedTarindex;
}

const native = addon as unknown as Native;

/** Decides the place of every inode and directory block. Throws `limit`. */
export function planTarindex(columns: TreeColumns, deviceCount: number): PlannedTarindex {
  const { tarindexBytes, sparseChunks } = limits;
  const plan = callNative(() => native.planTarindex(columns, deviceCount, { tarindexBytes, sparseChunks }));
  return { ...plan, next: (deviceBlocks) => callNative(() => plan.next(deviceBlocks)) };
}

/**
 * Adds entries [from, count) of a scan to a tree, until one needs a decision or a column is full; gives that one, or `count`. `base`: byte of
 * the device that byte 0 of the scanned bytes is.
 */
export function appendPlain(
  columns: GrowingColumns,
  scanned: ScannedHeaders,
  { from, count, base, device }: { from: number; count: number; base: number; device: number },
): number {
  return callNative(() => native.appendPlain(columns, scanned, from, count, base, device));
}
