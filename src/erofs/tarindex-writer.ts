import { OcifsError } from "../base/errors.js";
import { type DirentTargets, directoryBlockAt, writeDirectoryBlock } from "./directory-blocks.js";
import { type FileTree, rootEntry } from "./file-tree.js";
import {
  blockBits,
  blockBytes,
  chunk,
  compactInodeBytes,
  extendedInodeBytes,
  fileType,
  fileTypeMask,
  inodeSlotBytes,
  layout,
  xattrHeaderBytes,
} from "./format.js";
import { inodeAreaStart, layOut, type TarindexLayout } from "./layout.js";
import { OutputBuffer } from "./output-buffer.js";
import { type DeviceSlot, writeDeviceTable, writeSuperblock, writeSuperblockChecksum } from "./superblock.js";

export interface TarindexOptions {
  /** Slot k holds the layer that inodes name as device k + 1. At least one. */
  readonly devices: readonly DeviceSlot[];
  /** 16 bytes. */
  readonly uuid: Uint8Array;
}

/** Bytes handed out at a time. */
const pieceBytes = 256 << 10;

/**
 * The tarindex of a tree as consecutive pieces; each is the caller's to keep. The same tree and options give
 * the same bytes, in whatever order names were added. The bytes add up to the first device's flat address (uniaddr × 512). Throws `limit`.
 */
export function writeTarindex(tree: FileTree, options: TarindexOptions): Generator<Uint8Array> {
  return writePlanned(tree, layOut(tree, options.devices.length), options);
}

/** The same for a layout that the caller wants to know too: `layOut` of this tree, for as many devices. */
export function* writePlanned(tree: FileTree, plan: TarindexLayout, options: TarindexOptions): Generator<Uint8Array> {
  const out = new OutputBuffer(pieceBytes);
  writeSuperblock(out, plan, tree, options);
  writeDeviceTable(out, plan, options.devices);
  const writer = new Writer(tree, plan, out, options.devices);
  let first = true;
  const take = () => {
    // The checksum covers the superblock's own block, which the first piece holds whole.
    if (first) writeSuperblockChecksum(out.bytes);
    first = false;
    return out.take();
  };
  if (out.offset !== inodeAreaStart(options.devices.length))
    throw new OcifsError("internal", "tarindex: device table is misplaced");
  for (const inode of plan.order) {
    writer.writeInode(inode);
    if (out.pending >= pieceBytes) yield take();
  }
  out.padTo(plan.inodeAreaEnd);
  for (const inode of plan.order) {
    for (const pending of writer.writeBlocks(inode)) if (pending >= pieceBytes) yield take();
  }
  out.padTo(plan.sizeBytes);
  yield take();
}

class Writer {
  readonly #tree: FileTree;
  readonly #plan: TarindexLayout;
  readonly #out: OutputBuffer;
  readonly #devices: readonly DeviceSlot[];
  readonly #targets: DirentTargets;
  #serial = 0;

  constructor(tree: FileTree, plan: TarindexLayout, out: OutputBuffer, devices: readonly DeviceSlot[]) {
    this.#tree = tree;
    this.#plan = plan;
    this.#out = out;
    this.#devices = devices;
    this.#targets = {
      nid: (entry) => plan.nids[tree.inode(entry)] ?? 0,
      mode: (entry) => tree.inodes.mode(tree.inode(entry)),
    };
  }

  /** Inode, xattrs, then the inline tail or the chunk indexes. */
  writeInode(inode: number): void {
    const { inodes, xattrs } = this.#tree;
    const out = this.#out;
    out.padTo((this.#plan.nids[inode] ?? 0) * inodeSlotBytes);
    const area = xattrs.area(inodes.xattrs(inode));
    // icount counts the header as one unit, then 4 bytes each.
    const xattrUnits = area.length === 0 ? 0 : (area.length - xattrHeaderBytes) / 4 + 1;
    this.#writeHead(inode, xattrUnits);
    out.append(area);
    const type = inodes.mode(inode) & fileTypeMask;
    if (type === fileType.regular.mode && inodes.sizeBytes(inode) > 0) this.#writeChunks(inode);
    else if (this.#plan.dataLayouts[inode] === layout.inline) this.#writeTail(inode, type);
  }

  /** The full blocks of a directory or symlink, yielding the bytes that wait in the output after each. */
  *writeBlocks(inode: number): Generator<number> {
    const plan = this.#plan;
    const start = plan.startBlocks[inode] ?? 0;
    const type = this.#tree.inodes.mode(inode) & fileTypeMask;
    if (type === fileType.directory.mode) {
      const end = plan.childEnds[inode] ?? 0;
      const inline = plan.dataLayouts[inode] === layout.inline;
      const stop = inline ? (plan.tailStarts[inode] ?? end) : end;
      let at = plan.childStarts[inode] ?? 0;
      if (at < stop) this.#out.padTo(start * blockBytes);
      while (at < stop) {
        const block = directoryBlockAt(this.#tree, plan.children, at, end);
        const offset = this.#out.reserve(blockBytes);
        this.#writeDirectoryBlock(inode, at, block.end, offset);
        at = block.end;
        yield this.#out.pending;
      }
    } else if (type === fileType.symlink.mode && plan.dataLayouts[inode] === layout.plain) {
      this.#out.padTo(start * blockBytes);
      this.#out.append(this.#tree.inodes.target(inode));
      this.#out.padToMultiple(blockBytes);
      yield this.#out.pending;
    }
  }

  #writeHead(inode: number, xattrUnits: number): void {
    const { inodes } = this.#tree;
    const plan = this.#plan;
    const extended = plan.extended[inode] === 1;
    const at = this.#out.reserve(extended ? extendedInodeBytes : compactInodeBytes);
    const view = this.#out.view;
    const type = inodes.mode(inode) & fileTypeMask;
    const links = plan.linkCounts[inode] ?? 0;
    const sizeBytes = type === fileType.directory.mode ? (plan.directoryBytes[inode] ?? 0) : inodes.sizeBytes(inode);
    view.setUint16(at, (extended ? 1 : 0) | ((plan.dataLayouts[inode] ?? 0) << 1), true);
    view.setUint16(at + 2, xattrUnits, true);
    view.setUint16(at + 4, inodes.mode(inode), true);
    view.setUint32(at + 16, this.#dataWord(inode, type), true);
    view.setUint32(at + 20, ++this.#serial, true);
    if (!extended) {
      view.setUint16(at + 6, links, true);
      view.setUint32(at + 8, sizeBytes, true);
      view.setUint16(at + 24, inodes.uid(inode), true);
      view.setUint16(at + 26, inodes.gid(inode), true);
      return;
    }
    view.setBigUint64(at + 8, BigInt(sizeBytes), true);
    view.setUint32(at + 24, inodes.uid(inode), true);
    view.setUint32(at + 28, inodes.gid(inode), true);
    view.setBigInt64(at + 32, BigInt(inodes.mtimeSeconds(inode)), true);
    view.setUint32(at + 40, inodes.mtimeNanoseconds(inode), true);
    view.setUint32(at + 44, links, true);
  }

  /** i_u: the chunk format of a file with data, the device number, or the first block. */
  #dataWord(inode: number, type: number): number {
    const { inodes } = this.#tree;
    if (type === fileType.char.mode || type === fileType.block.mode) return inodes.rdev(inode);
    if (type === fileType.directory.mode || type === fileType.symlink.mode) return this.#plan.startBlocks[inode] ?? 0;
    return type === fileType.regular.mode && inodes.sizeBytes(inode) > 0 ? this.#chunkFormat(inode) : 0;
  }

  #chunkFormat(inode: number): number {
    const bits = (this.#plan.chunkBits[inode] ?? blockBits) - blockBits;
    return bits | chunk.indexes | (this.#needs48Bits(inode) ? chunk.address48 : 0);
  }

  /** The highest address of 32 bits means a hole. */
  #needs48Bits(inode: number): boolean {
    const { inodes } = this.#tree;
    const last = inodes.extents(inode).at(-1);
    const lastChunkBits = this.#plan.chunkBits[inode] ?? blockBits;
    return last !== undefined && last.deviceOffset + last.sizeBytes + 2 ** lastChunkBits > 0xffff_ffff * blockBytes;
  }

  #writeChunks(inode: number): void {
    const { inodes } = this.#tree;
    const out = this.#out;
    out.padToMultiple(chunk.indexBytes);
    const sizeBytes = inodes.sizeBytes(inode);
    const chunkBytes = 2 ** (this.#plan.chunkBits[inode] ?? blockBits);
    const device = inodes.device(inode);
    const deviceBlocks = this.#devices[device - 1]?.blocks ?? 0;
    const extents = inodes.extents(inode);
    const count = Math.ceil(sizeBytes / chunkBytes);
    const at = out.reserve(count * chunk.indexBytes);
    const view = out.view;
    let next = 0;
    for (let i = 0; i < count; i++) {
      const offset = i * chunkBytes;
      let extent = extents[next];
      while (extent !== undefined && extent.offset + extent.sizeBytes <= offset) extent = extents[++next];
      const index = at + i * chunk.indexBytes;
      if (extent === undefined || offset < extent.offset) {
        view.setUint16(index, 0xffff, true);
        view.setUint32(index + 4, 0xffff_ffff, true);
        continue;
      }
      const end = extent.deviceOffset + extent.sizeBytes;
      if (end > deviceBlocks * blockBytes) {
        throw new OcifsError(
          "internal",
          `tarindex: a file ends at byte ${end} of device ${device}, which has ${deviceBlocks} blocks`,
        );
      }
      const block = (extent.deviceOffset + (offset - extent.offset)) / blockBytes;
      view.setUint16(index, Math.floor(block / 2 ** 32), true);
      view.setUint16(index + 2, device, true);
      view.setUint32(index + 4, block % 2 ** 32, true);
    }
  }

  #writeTail(inode: number, type: number): void {
    const plan = this.#plan;
    if (type === fileType.symlink.mode) {
      this.#out.append(this.#tree.inodes.target(inode));
      return;
    }
    const start = plan.tailStarts[inode] ?? 0;
    const end = plan.childEnds[inode] ?? 0;
    const offset = this.#out.reserve((plan.directoryBytes[inode] ?? 0) % blockBytes);
    this.#writeDirectoryBlock(inode, start, end, offset);
  }

  #writeDirectoryBlock(inode: number, start: number, end: number, offset: number): void {
    const plan = this.#plan;
    const directory = plan.directoryEntries[inode] ?? rootEntry;
    writeDirectoryBlock(this.#tree, this.#targets, directory, plan.children, start, end, this.#out.view, offset);
  }
}
