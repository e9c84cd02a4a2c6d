import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { ScannedHeaders } from "../native/tar.js";
import { appendPlain, type EntryColumns, type TreeColumns } from "../native/tarindex.js";
import { ByteArena, ByteTable, hashBytes, hashSeed } from "./byte-arena.js";
import { fileType, fileTypeMask } from "./format.js";
import { grown, growth, type InodeMetadata, InodeTable } from "./inode-table.js";
import { XattrSets } from "./xattr.js";

/** The root's entry number. */
export const rootEntry = 0;
/** Not an entry. */
export const noEntry = -1;

/**
 * A tree of names over inodes, in columns of numbers: about 30 bytes a name besides the name itself. An entry is a name in a
 * directory; several entries may share an inode (hard links), but not a directory's. Entries keep their number for good:
 * one that is removed stays as an absent one and comes back when its name does.
 */
export class FileTree {
  readonly inodes = new InodeTable(new ByteTable());
  readonly xattrs = new XattrSets();
  readonly #names = new ByteArena();
  #count = 0;
  #nameOffset = new Uint32Array(1024);
  #nameBytes = new Uint8Array(1024);
  #parent = new Int32Array(1024);
  #depth = new Uint16Array(1024);
  /** -1: absent. */
  #inode = new Int32Array(1024);
  #firstChild = new Int32Array(1024);
  #nextSibling = new Int32Array(1024);
  /** Open addressing over (parent, name); at most half full. */
  #slots = new Int32Array(4096).fill(-1);

  /** A tree with nothing but its root directory. */
  constructor(root: InodeMetadata) {
    this.#add(rootEntry, new Uint8Array(0), 0, 0);
    this.#parent[rootEntry] = rootEntry;
    this.#inode[rootEntry] = this.inodes.add(root, { kind: "directory" });
  }

  /** Entries ever made, absent ones included. */
  get entryCount(): number {
    return this.#count;
  }

  /** The entry's inode, or -1 when it is absent. */
  inode(entry: number): number {
    return this.#inode[entry] ?? -1;
  }

  /** The root is its own parent. */
  parent(entry: number): number {
    return this.#parent[entry] ?? rootEntry;
  }

  /** First of a directory's entries, present or absent, in no particular order; -1 when there is none. */
  firstChild(entry: number): number {
    return this.#firstChild[entry] ?? noEntry;
  }

  nextSibling(entry: number): number {
    return this.#nextSibling[entry] ?? noEntry;
  }

  isDirectory(entry: number): boolean {
    const inode = this.inode(entry);
    return inode >= 0 && (this.inodes.mode(inode) & fileTypeMask) === fileType.directory.mode;
  }

  /** A view of the name, valid until the next entry is made. */
  name(entry: number): Uint8Array {
    return this.#names.view(this.#nameOffset[entry] ?? 0, this.#nameBytes[entry] ?? 0);
  }

  nameBytes(entry: number): number {
    return this.#nameBytes[entry] ?? 0;
  }

  /** The path from the root, for messages. */
  path(entry: number): Uint8Array {
    const names: Uint8Array[] = [];
    for (let at = entry; at !== rootEntry; at = this.parent(at)) names.push(this.name(at), Buffer.from("/"));
    return Buffer.concat(names.reverse());
  }

  /** The present entry of that name (bytes [start, end)) in a directory, or noEntry. */
  find(directory: number, bytes: Uint8Array, start = 0, end = bytes.length): number {
    const entry = this.#slots[this.#slotOf(directory, bytes, start, end)] ?? -1;
    return entry >= 0 && this.inode(entry) >= 0 ? entry : noEntry;
  }

  /** The entry of that name, made absent if there is none. Give it an inode with `link`. Throws `limit`. */
  place(directory: number, bytes: Uint8Array, start = 0, end = bytes.length): number {
    const slot = this.#slotOf(directory, bytes, start, end);
    const found = this.#slots[slot] ?? -1;
    if (found >= 0) return found;
    const entry = this.#add(directory, bytes, start, end);
    this.#nextSibling[entry] = this.firstChild(directory);
    this.#firstChild[directory] = entry;
    if (this.#count * 2 > this.#slots.length) this.#growSlots();
    else this.#slots[slot] = entry;
    return entry;
  }

  /** All of it, as native code reads it; valid until the tree changes. */
  columns(): TreeColumns {
    return { ...this.#entryColumns(), ...this.inodes.columns(), xattrAreas: this.xattrs.columns() };
  }

  /**
   * Adds entries of a tar scan as long as each is a new name in directories that are all there, and gives the first that is not, or for which
   * the columns would have to grow. `base`: byte of the device that byte 0 of the scanned bytes is.
   */
  appendPlain(
    scanned: ScannedHeaders,
    range: { readonly from: number; readonly count: number; readonly base: number; readonly device: number },
  ): number {
    const { inodes } = this;
    const used = Float64Array.of(this.#names.used, this.#count, inodes.count, inodes.targetBytes, inodes.targetCount);
    const columns = {
      ...this.#entryColumns(),
      ...inodes.columns(),
      depth: this.#depth,
      slots: this.#slots,
      hashSeed,
      maximumDepth: limits.pathDepth,
      used,
    };
    const next = appendPlain(columns, scanned, range);
    const [names = 0, entries = 0, inodeCount = 0, targetBytes = 0, targetCount = 0] = used;
    this.#names.used = names;
    this.#count = entries;
    inodes.setUsed(inodeCount, targetCount, targetBytes);
    return next;
  }

  #entryColumns(): EntryColumns {
    return {
      entryCount: this.#count,
      names: this.#names.bytes,
      nameOffset: this.#nameOffset,
      nameBytes: this.#nameBytes,
      parent: this.#parent,
      inode: this.#inode,
      firstChild: this.#firstChild,
      nextSibling: this.#nextSibling,
    };
  }

  /** Makes the entry a name of the inode. What it named before goes, a directory with all below it. */
  link(entry: number, inode: number): void {
    this.unlink(entry);
    this.#inode[entry] = inode;
  }

  /** Makes the entry absent, and everything below it. Other names of the same inodes stay. */
  unlink(entry: number): void {
    if (!this.isDirectory(entry)) {
      this.#inode[entry] = -1;
      return;
    }
    const todo = [entry];
    for (let at = todo.pop(); at !== undefined; at = todo.pop()) {
      const wasDirectory = this.isDirectory(at);
      this.#inode[at] = -1;
      if (!wasDirectory) continue;
      for (let child = this.firstChild(at); child >= 0; child = this.nextSibling(child)) {
        if (this.inode(child) >= 0) todo.push(child);
      }
    }
  }

  #add(parent: number, bytes: Uint8Array, start: number, end: number): number {
    const entry = this.#count;
    const depth = entry === rootEntry ? 0 : (this.#depth[parent] ?? 0) + 1;
    if (end - start > limits.nameBytes || depth > limits.pathDepth) {
      throw new OcifsError(
        "limit",
        `file tree: a name of ${end - start} bytes at depth ${depth}, the limits are ${limits.nameBytes} and ${limits.pathDepth}`,
      );
    }
    if (entry === this.#inode.length) this.#growColumns();
    this.#count++;
    this.#nameOffset[entry] = this.#names.append(bytes, start, end);
    this.#nameBytes[entry] = end - start;
    this.#parent[entry] = parent;
    this.#depth[entry] = depth;
    this.#inode[entry] = -1;
    this.#firstChild[entry] = noEntry;
    this.#nextSibling[entry] = noEntry;
    return entry;
  }

  #slotOf(parent: number, bytes: Uint8Array, start: number, end: number): number {
    const mask = this.#slots.length - 1;
    let slot = hashBytes(bytes, start, end, Math.imul(hashSeed ^ parent, 0x9e3779b1)) & mask;
    for (;;) {
      const entry = this.#slots[slot] ?? -1;
      if (entry < 0 || (this.parent(entry) === parent && this.#hasName(entry, bytes, start, end))) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #hasName(entry: number, bytes: Uint8Array, start: number, end: number): boolean {
    const length = end - start;
    if (this.nameBytes(entry) !== length) return false;
    const names = this.#names.bytes;
    const offset = this.#nameOffset[entry] ?? 0;
    for (let i = 0; i < length; i++) if (names[offset + i] !== bytes[start + i]) return false;
    return true;
  }

  #growSlots(): void {
    this.#slots = new Int32Array(this.#slots.length * 2).fill(-1);
    const names = this.#names.bytes;
    for (let entry = 1; entry < this.#count; entry++) {
      const start = this.#nameOffset[entry] ?? 0;
      this.#slots[this.#slotOf(this.parent(entry), names, start, start + this.nameBytes(entry))] = entry;
    }
  }

  #growColumns(): void {
    const size = this.#inode.length * growth;
    this.#nameOffset = grown(this.#nameOffset, new Uint32Array(size));
    this.#nameBytes = grown(this.#nameBytes, new Uint8Array(size));
    this.#parent = grown(this.#parent, new Int32Array(size));
    this.#depth = grown(this.#depth, new Uint16Array(size));
    this.#inode = grown(this.#inode, new Int32Array(size));
    this.#firstChild = grown(this.#firstChild, new Int32Array(size));
    this.#nextSibling = grown(this.#nextSibling, new Int32Array(size));
  }
}
