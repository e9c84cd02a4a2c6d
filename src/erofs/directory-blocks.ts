import type { FileTree } from "./file-tree.js";
import { blockBytes, direntBytes, direntTypeOf } from "./format.js";

/** Stand for `.` and `..` among a directory's sorted entries. */
export const dotEntry = -1;
export const dotDotEntry = -2;

const dot = 0x2e;

/** Sorts entries [start, end) of `children` by name and puts `.` and `..` where they belong; there must be room for two more. */
export function sortChildren(tree: FileTree, children: Int32Array, start: number, end: number): void {
  children.subarray(start, end).sort((a, b) => tree.compareNames(a, b));
  insert(children, start, end, dotEntry, (name) => (name[0] ?? 0) < dot);
  insert(
    children,
    start,
    end + 1,
    dotDotEntry,
    (name) => (name[0] ?? 0) < dot || (name[0] === dot && (name[1] ?? 0) < dot),
  );

  function insert(
    into: Int32Array,
    from: number,
    to: number,
    special: number,
    isBefore: (name: Uint8Array) => boolean,
  ): void {
    let at = from;
    while (at < to) {
      const entry = into[at] ?? dotEntry;
      if (entry >= 0 && !isBefore(tree.name(entry))) break;
      at++;
    }
    into.copyWithin(at + 1, at, to);
    into[at] = special;
  }
}

export function nameBytesOf(tree: FileTree, entry: number): number {
  if (entry === dotEntry) return 1;
  return entry === dotDotEntry ? 2 : tree.nameBytes(entry);
}

/** The end of the directory block that begins with entry `start`: as many of [start, end) as fit 512 bytes, and the bytes they take. */
export function directoryBlockAt(
  tree: FileTree,
  children: Int32Array,
  start: number,
  end: number,
): { end: number; usedBytes: number } {
  let usedBytes = 0;
  let at = start;
  for (; at < end; at++) {
    const need = direntBytes + nameBytesOf(tree, children[at] ?? dotEntry);
    if (usedBytes + need > blockBytes) break;
    usedBytes += need;
  }
  return { end: at, usedBytes };
}

/** What a directory entry points at. */
export interface DirentTargets {
  /** On-disk inode number of an entry's inode. */
  nid(entry: number): number;
  mode(entry: number): number;
}

/**
 * Writes one directory block for entries [start, end): 12-byte dirents (u64 nid, u16 name offset, u8 type), then the names.
 * `directory` is the entry of the directory itself. The bytes at `at` must be zero before.
 */
export function writeDirectoryBlock(
  tree: FileTree,
  targets: DirentTargets,
  directory: number,
  children: Int32Array,
  start: number,
  end: number,
  out: DataView,
  at: number,
): void {
  let nameAt = direntBytes * (end - start);
  for (let i = start; i < end; i++) {
    const child = children[i] ?? dotEntry;
    const entry = child === dotEntry ? directory : child === dotDotEntry ? tree.parent(directory) : child;
    const dirent = at + direntBytes * (i - start);
    out.setUint32(dirent, targets.nid(entry), true);
    out.setUint16(dirent + 8, nameAt, true);
    out.setUint8(dirent + 10, direntTypeOf(targets.mode(entry)));
    if (child < 0) {
      for (let d = 0; d < nameBytesOf(tree, child); d++) out.setUint8(at + nameAt + d, dot);
    } else {
      const name = tree.name(child);
      for (let n = 0; n < name.length; n++) out.setUint8(at + nameAt + n, name[n] ?? 0);
    }
    nameAt += nameBytesOf(tree, child);
  }
}
