import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { directoryBlockAt, sortChildren } from "./directory-blocks.js";
import { commonMtime } from "./epoch.js";
import { chunkBitsOfExtents, chunkBitsOfWhole } from "./extents.js";
import { type FileTree, rootEntry } from "./file-tree.js";
import {
  blockBytes,
  chunk,
  compactInodeBytes,
  deviceSlotBytes,
  extendedInodeBytes,
  fileType,
  fileTypeMask,
  inodeSlotBytes,
  layout,
  nullBlock,
  superblockBytes,
  superblockOffset,
} from "./format.js";

/**
 * The file ends on a page border: the kernel reads metadata by pages, and with the layer's tar right behind the index (one flat address
 * space) a page across the border would make it fetch the layer to list a directory. It also lets the tar be cloned behind the index.
 */
const fileAlignmentBytes = 4096;

/** Where everything goes. Arrays are indexed by the tree's inode number unless said otherwise. */
export interface TarindexLayout {
  /** Reachable inodes in the order they stand on disk. */
  readonly order: Int32Array;
  /** On-disk inode numbers; 0 for inodes without a name. */
  readonly nids: Uint32Array;
  readonly linkCounts: Uint32Array;
  readonly dataLayouts: Uint8Array;
  /** 1 for the 64-byte form. */
  readonly extended: Uint8Array;
  /** First 512-byte block of a directory's or symlink's full blocks, or nullBlock. */
  readonly startBlocks: Uint32Array;
  readonly chunkBits: Uint8Array;
  /** Of directories. */
  readonly directoryBytes: Float64Array;
  /** Of directories: entry, and their sorted entries in `children`, `.` and `..` included. */
  readonly directoryEntries: Int32Array;
  readonly childStarts: Int32Array;
  readonly childEnds: Int32Array;
  /** Of directories: where in `children` the last block begins. */
  readonly tailStarts: Int32Array;
  /** Entry numbers, grouped by directory. */
  readonly children: Int32Array;
  /** Byte where inodes end and data blocks begin. */
  readonly inodeAreaEnd: number;
  readonly sizeBytes: number;
  readonly epochSeconds: number;
  readonly epochNanoseconds: number;
  readonly inodeCount: number;
  readonly hasXattrs: boolean;
  /** Largest block address of any layer that an inode uses, plus one. */
  readonly deviceBlocksUsed: number;
}

/** Byte of the first inode, right after the device table. */
export function inodeAreaStart(deviceCount: number): number {
  return superblockOffset + superblockBytes + deviceCount * deviceSlotBytes;
}

/** Decides the place of every inode and directory block. The tree must not change between this and writing. Throws `limit`. */
export function layOut(tree: FileTree, deviceCount: number): TarindexLayout {
  return new Planner(tree, deviceCount).run();
}

class Planner {
  readonly #tree: FileTree;
  readonly #nids: Uint32Array;
  readonly #linkCounts: Uint32Array;
  readonly #dataLayouts: Uint8Array;
  readonly #extended: Uint8Array;
  readonly #startBlocks: Uint32Array;
  readonly #chunkBits: Uint8Array;
  readonly #directoryBytes: Float64Array;
  readonly #directoryEntries: Int32Array;
  readonly #childStarts: Int32Array;
  readonly #childEnds: Int32Array;
  readonly #tailStarts: Int32Array;
  readonly #children: Int32Array;
  #childCount = 0;
  #order: Int32Array;
  #placed = 0;
  #cursor: number;
  readonly #epoch: { seconds: number; nanoseconds: number };
  #hasXattrs = false;
  #deviceBlocksUsed = 0;

  constructor(tree: FileTree, deviceCount: number) {
    this.#tree = tree;
    const inodes = tree.inodes.count;
    this.#nids = new Uint32Array(inodes);
    this.#linkCounts = new Uint32Array(inodes);
    this.#dataLayouts = new Uint8Array(inodes);
    this.#extended = new Uint8Array(inodes);
    this.#startBlocks = new Uint32Array(inodes).fill(nullBlock);
    this.#chunkBits = new Uint8Array(inodes);
    this.#directoryBytes = new Float64Array(inodes);
    this.#directoryEntries = new Int32Array(inodes);
    this.#childStarts = new Int32Array(inodes);
    this.#childEnds = new Int32Array(inodes);
    this.#tailStarts = new Int32Array(inodes);
    this.#order = new Int32Array(inodes);
    this.#cursor = inodeAreaStart(deviceCount);
    const { entries, directories } = this.#countLinks();
    this.#children = new Int32Array(entries + 2 * directories);
    this.#epoch = commonMtime(tree.inodes, this.#linkCounts);
  }

  run(): TarindexLayout {
    const tree = this.#tree;
    // Inodes of one directory stand together, directories in depth-first order: the order `find` and `ls -lR` read them in.
    const todo = [rootEntry];
    this.#sort(rootEntry);
    this.#place(tree.inode(rootEntry));
    for (let directory = todo.pop(); directory !== undefined; directory = todo.pop()) {
      const inode = tree.inode(directory);
      const start = this.#childStarts[inode] ?? 0;
      for (let i = start; i < (this.#childEnds[inode] ?? 0); i++) {
        const child = this.#children[i] ?? -1;
        if (child < 0) continue;
        const childInode = tree.inode(child);
        if ((this.#nids[childInode] ?? 0) !== 0) continue;
        if (tree.isDirectory(child)) this.#sort(child);
        this.#place(childInode);
      }
      for (let i = (this.#childEnds[inode] ?? 0) - 1; i >= start; i--) {
        const child = this.#children[i] ?? -1;
        if (child >= 0 && tree.isDirectory(child)) todo.push(child);
      }
    }
    this.#order = this.#order.subarray(0, this.#placed);
    const inodeAreaEnd = roundUp(this.#cursor, blockBytes);
    const sizeBytes = roundUp(this.#placeBlocks(inodeAreaEnd), fileAlignmentBytes);
    if (sizeBytes > limits.tarindexBytes) {
      throw new OcifsError("limit", `tarindex: ${sizeBytes} bytes, the limit is ${limits.tarindexBytes}`);
    }
    return {
      order: this.#order,
      nids: this.#nids,
      linkCounts: this.#linkCounts,
      dataLayouts: this.#dataLayouts,
      extended: this.#extended,
      startBlocks: this.#startBlocks,
      chunkBits: this.#chunkBits,
      directoryBytes: this.#directoryBytes,
      directoryEntries: this.#directoryEntries,
      childStarts: this.#childStarts,
      childEnds: this.#childEnds,
      tailStarts: this.#tailStarts,
      children: this.#children,
      inodeAreaEnd,
      sizeBytes,
      epochSeconds: this.#epoch.seconds,
      epochNanoseconds: this.#epoch.nanoseconds,
      inodeCount: this.#placed,
      hasXattrs: this.#hasXattrs,
      deviceBlocksUsed: this.#deviceBlocksUsed,
    };
  }

  /** A directory's links are its name, its `.` and the `..` of each directory in it. */
  #countLinks(): { entries: number; directories: number } {
    const tree = this.#tree;
    let entries = 0;
    let directories = 0;
    const add = (inode: number, links: number) => {
      this.#linkCounts[inode] = (this.#linkCounts[inode] ?? 0) + links;
    };
    for (let entry = 0; entry < tree.entryCount; entry++) {
      const inode = tree.inode(entry);
      if (inode < 0) continue;
      entries++;
      add(inode, 1);
      if (!tree.isDirectory(entry)) continue;
      directories++;
      add(inode, 1);
      if (entry !== rootEntry) add(tree.inode(tree.parent(entry)), 1);
    }
    return { entries, directories };
  }

  /** Collects and sorts a directory's entries, and computes its size: whole blocks but the last. */
  #sort(directory: number): void {
    const tree = this.#tree;
    const inode = tree.inode(directory);
    const start = this.#childCount;
    let end = start;
    for (let child = tree.firstChild(directory); child >= 0; child = tree.nextSibling(child)) {
      if (tree.inode(child) >= 0) this.#children[end++] = child;
    }
    sortChildren(tree, this.#children, start, end);
    end += 2;
    this.#childCount = end;
    this.#directoryEntries[inode] = directory;
    this.#childStarts[inode] = start;
    this.#childEnds[inode] = end;
    let bytes = 0;
    for (let at = start; at < end; ) {
      const block = directoryBlockAt(tree, this.#children, at, end);
      this.#tailStarts[inode] = at;
      bytes = roundUp(bytes, blockBytes) + block.usedBytes;
      at = block.end;
    }
    this.#directoryBytes[inode] = bytes;
  }

  #place(inode: number): void {
    const inodes = this.#tree.inodes;
    const type = inodes.mode(inode) & fileTypeMask;
    const sizeBytes = type === fileType.directory.mode ? (this.#directoryBytes[inode] ?? 0) : inodes.sizeBytes(inode);
    const extended = this.#needsExtended(inode, sizeBytes);
    this.#extended[inode] = extended ? 1 : 0;
    const xattrBytes = this.#tree.xattrs.area(inodes.xattrs(inode)).length;
    if (xattrBytes > 0) this.#hasXattrs = true;
    const headBytes = (extended ? extendedInodeBytes : compactInodeBytes) + xattrBytes;
    let bytes = headBytes;
    this.#dataLayouts[inode] = layout.plain;
    if (type === fileType.regular.mode && sizeBytes > 0) {
      this.#dataLayouts[inode] = layout.chunk;
      bytes = roundUp(headBytes, chunk.indexBytes) + chunk.indexBytes * this.#planChunks(inode, sizeBytes);
    } else if (type === fileType.directory.mode || type === fileType.symlink.mode) {
      // Linux before 6.12 refuses an inline symlink whose inode begins in an earlier block, so nothing inline crosses one.
      const tail = type === fileType.symlink.mode ? sizeBytes : sizeBytes % blockBytes;
      if (tail > 0 && headBytes + tail <= blockBytes) {
        this.#dataLayouts[inode] = layout.inline;
        bytes = headBytes + tail;
        if ((this.#cursor % blockBytes) + bytes > blockBytes) this.#cursor = roundUp(this.#cursor, blockBytes);
      }
    }
    if (this.#cursor + bytes > limits.tarindexBytes) {
      throw new OcifsError("limit", `tarindex: inodes need more than ${limits.tarindexBytes} bytes`);
    }
    this.#nids[inode] = this.#cursor / inodeSlotBytes;
    this.#cursor = roundUp(this.#cursor + bytes, inodeSlotBytes);
    this.#order[this.#placed++] = inode;
  }

  #needsExtended(inode: number, sizeBytes: number): boolean {
    const inodes = this.#tree.inodes;
    return (
      sizeBytes > 0xffff_ffff ||
      inodes.uid(inode) > 0xffff ||
      inodes.gid(inode) > 0xffff ||
      (this.#linkCounts[inode] ?? 0) > 0xffff ||
      inodes.mtimeSeconds(inode) !== this.#epoch.seconds ||
      inodes.mtimeNanoseconds(inode) !== this.#epoch.nanoseconds
    );
  }

  /** Chooses the chunk size and gives the number of chunks. */
  #planChunks(inode: number, sizeBytes: number): number {
    const inodes = this.#tree.inodes;
    const whole = inodes.wholeExtent(inode);
    let bits: number | undefined;
    if (whole >= 0) {
      bits = chunkBitsOfWhole(sizeBytes);
      this.#useDevice(whole, sizeBytes);
    } else {
      const extents = inodes.extents(inode);
      bits = chunkBitsOfExtents(sizeBytes, extents);
      for (const extent of extents) this.#useDevice(extent.deviceOffset, extent.sizeBytes);
    }
    if (bits === undefined) throw new OcifsError("internal", "tarindex: a file's extents do not fall on chunk borders");
    this.#chunkBits[inode] = bits;
    return Math.ceil(sizeBytes / 2 ** bits);
  }

  #useDevice(offset: number, sizeBytes: number): void {
    this.#deviceBlocksUsed = Math.max(this.#deviceBlocksUsed, Math.ceil((offset + sizeBytes) / blockBytes));
  }

  /** Gives directories and symlinks that do not fit beside their inode their blocks, in inode order. */
  #placeBlocks(start: number): number {
    const inodes = this.#tree.inodes;
    let cursor = start;
    for (const inode of this.#order) {
      const type = inodes.mode(inode) & fileTypeMask;
      let bytes = 0;
      if (type === fileType.directory.mode) bytes = this.#directoryBytes[inode] ?? 0;
      else if (type === fileType.symlink.mode) bytes = inodes.sizeBytes(inode);
      const inline = this.#dataLayouts[inode] === layout.inline;
      const blocks = inline ? Math.floor(bytes / blockBytes) : Math.ceil(bytes / blockBytes);
      const inlineSymlink = inline && type === fileType.symlink.mode;
      if (blocks === 0 || inlineSymlink) continue;
      this.#startBlocks[inode] = cursor / blockBytes;
      cursor += blocks * blockBytes;
    }
    return cursor;
  }
}

function roundUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}
