import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { ByteTable } from "../erofs/byte-arena.js";
import { chunkBitsOfExtents, type DataExtent } from "../erofs/extents.js";
import type { FileTree } from "../erofs/file-tree.js";
import { blockBytes, fileType, fileTypeMask } from "../erofs/format.js";
import { type InodeContent, type InodeMetadata, noXattrs } from "../erofs/inode-table.js";
import type { Xattr, XattrSets } from "../erofs/xattr.js";
import type { ErofsImage } from "../native/erofs.js";
import { type ErofsListedEntry, listedData } from "../native/erofs-directory.js";
import { EntryPlace } from "../tar/quote.js";

/** overlayfs acts on these, also below a mount of ours. What a layer says with them it says about its builder's overlay. */
const overlayPrefixes = ["trusted.overlay.", "user.overlay."];

/** Turns the xattrs that indexes hold into sets of the merged tree, each distinct list once. */
export class MergedXattrs {
  readonly #sets: XattrSets;
  readonly #packed = new ByteTable();
  /** By the number of a packed list. */
  readonly #ids: number[] = [];

  constructor(sets: XattrSets) {
    this.#sets = sets;
  }

  /** Of a list packed as in `ErofsListedEntry.xattrs`. */
  intern(packed: Uint8Array, where: { toString(): string }): number {
    if (packed.length === 0) return noXattrs;
    const number = this.#packed.intern(packed);
    const known = this.#ids[number];
    if (known !== undefined) return known;
    const id = this.internList(unpackXattrs(packed), where);
    this.#ids[number] = id;
    return id;
  }

  internList(xattrs: readonly Xattr[], where: { toString(): string }): number {
    const seen = new Set<string>();
    const kept = xattrs.filter(({ name }) => {
      const text = Buffer.from(name).toString("latin1");
      // The reader shows the first of a name that an index has twice.
      if (seen.has(text) || overlayPrefixes.some((prefix) => text.startsWith(prefix))) return false;
      seen.add(text);
      return true;
    });
    return this.#sets.intern(kept, where);
  }
}

function unpackXattrs(packed: Uint8Array): Xattr[] {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.length);
  const xattrs: Xattr[] = [];
  for (let at = 0; at < packed.length; ) {
    const nameEnd = at + 4 + view.getUint16(at, true);
    const valueEnd = nameEnd + view.getUint16(at + 2, true);
    xattrs.push({ name: packed.subarray(at + 4, nameEnd), value: packed.subarray(nameEnd, valueEnd) });
    at = valueEnd;
  }
  return xattrs;
}

/** The inodes of one layer as they come into the merged tree. */
export class LayerInodes {
  readonly #tree: FileTree;
  readonly #xattrs: MergedXattrs;
  readonly #image: ErofsImage;
  readonly #device: number;
  /** Merged inode of each nid with several names. */
  readonly #linked = new Map<number, number>();
  #sparseChunks = 0;

  /** `device`: 1-based slot of the layer in the merged tarindex. */
  constructor(tree: FileTree, xattrs: MergedXattrs, image: ErofsImage, device: number) {
    this.#tree = tree;
    this.#xattrs = xattrs;
    this.#image = image;
    this.#device = device;
  }

  metadataOf(entry: ErofsListedEntry): InodeMetadata {
    return {
      permissions: entry.mode & ~fileTypeMask,
      uid: entry.uid,
      gid: entry.gid,
      mtimeSeconds: entry.mtimeSeconds,
      mtimeNanoseconds: entry.mtimeNanoseconds,
      xattrs: this.#xattrs.intern(entry.xattrs, new EntryPlace(entry.name)),
    };
  }

  /** The same of an inode that no entry of a directory names: the root. */
  metadataOfNid(nid: number): InodeMetadata {
    const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds } = this.#image.getattr(nid);
    const xattrs = this.#image.listxattr(nid).map((name) => {
      const value = this.#image.getxattr(nid, name);
      if (value === null)
        throw new OcifsError("internal", `EROFS inode ${nid}: an xattr that is listed cannot be read`);
      return { name, value };
    });
    return {
      permissions: mode & ~fileTypeMask,
      uid,
      gid,
      mtimeSeconds,
      mtimeNanoseconds,
      xattrs: this.#xattrs.internList(xattrs, "/"),
    };
  }

  /** The merged inode of an entry; entries that share an inode in the layer share one here. */
  inodeOf(entry: ErofsListedEntry): number {
    if (entry.nlink < 2 || (entry.mode & fileTypeMask) === fileType.directory.mode) return this.#add(entry);
    const nid = entry.nid;
    const known = this.#linked.get(nid);
    if (known !== undefined) return known;
    const inode = this.#add(entry);
    this.#linked.set(nid, inode);
    return inode;
  }

  #add(entry: ErofsListedEntry): number {
    return this.#tree.inodes.add(this.metadataOf(entry), this.#contentOf(entry));
  }

  #contentOf(entry: ErofsListedEntry): InodeContent {
    switch (entry.mode & fileTypeMask) {
      case fileType.regular.mode:
        return { kind: "file", sizeBytes: entry.sizeBytes, device: this.#device, extents: this.#extentsOf(entry) };
      case fileType.symlink.mode:
        return { kind: "symlink", target: entry.target };
      case fileType.char.mode:
        return { kind: "char", major: entry.rdevMajor, minor: entry.rdevMinor };
      case fileType.block.mode:
        return { kind: "block", major: entry.rdevMajor, minor: entry.rdevMinor };
      case fileType.fifo.mode:
        return { kind: "fifo" };
      case fileType.socket.mode:
        return { kind: "socket" };
      case fileType.directory.mode:
        return { kind: "directory" };
      default:
        throw new OcifsError("internal", `${new EntryPlace(entry.name)}: mode ${entry.mode} has no file type`);
    }
  }

  #extentsOf(entry: ErofsListedEntry): readonly DataExtent[] {
    const { sizeBytes, dataKind } = entry;
    if (dataKind === listedData.none) return [];
    if (dataKind === listedData.whole) {
      checkDevice(entry, entry.device);
      const deviceOffset = entry.dataOffset;
      if (deviceOffset % blockBytes !== 0) throw misplaced(entry);
      return [{ offset: 0, sizeBytes, deviceOffset }];
    }
    const extents = this.#piecesOf(entry);
    const chunkBits = chunkBitsOfExtents(sizeBytes, extents);
    if (chunkBits === undefined) throw misplaced(entry);
    this.#sparseChunks += Math.ceil(sizeBytes / 2 ** chunkBits);
    if (this.#sparseChunks > limits.sparseChunksOfLayer) {
      const place = new EntryPlace(entry.name);
      throw new OcifsError("limit", `${place}: sparse files need more than ${limits.sparseChunksOfLayer} chunks`);
    }
    return extents;
  }

  #piecesOf(entry: ErofsListedEntry): readonly DataExtent[] {
    const { nid, sizeBytes } = entry;
    const pieces: DataExtent[] = [];
    for (let at = 0; at < sizeBytes; ) {
      const extents = this.#image.mapRange(nid, at, sizeBytes - at);
      if (extents.length === 0) throw new OcifsError("internal", `EROFS inode ${nid}: no extent at byte ${at}`);
      for (const extent of extents) {
        at = extent.fileOffset + extent.length;
        if (extent.kind === "hole") continue;
        checkDevice(entry, extent.kind === "device" ? extent.device : 0);
        pieces.push({ offset: extent.fileOffset, sizeBytes: extent.length, deviceOffset: extent.offset });
      }
      if (pieces.length > limits.sparseChunks) {
        const place = new EntryPlace(entry.name);
        throw new OcifsError("limit", `${place}: a sparse file of more than ${limits.sparseChunks} pieces`);
      }
    }
    return pieces;
  }
}

/** An index of one layer has all file data on its only device. */
function checkDevice(entry: ErofsListedEntry, device: number): void {
  if (device === 1) return;
  throw new OcifsError(
    "unsupported",
    `${new EntryPlace(entry.name)}: its data lies ${device === 0 ? "in the index itself" : `on device ${device}`}, want the layer's tar`,
  );
}

function misplaced(entry: ErofsListedEntry): OcifsError {
  return new OcifsError(
    "unsupported",
    `${new EntryPlace(entry.name)}: its data does not begin and end at multiples of 512 bytes in the layer's tar`,
  );
}
