import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { chunkBitsOfExtents, type DataExtent } from "../erofs/extents.js";
import { FileTree, noEntry, rootEntry } from "../erofs/file-tree.js";
import { fileType, fileTypeMask } from "../erofs/format.js";
import { type InodeContent, type InodeMetadata, noXattrs } from "../erofs/inode-table.js";
import type { TarEntry } from "../tar/entry.js";
import { lastNameStart } from "../tar/path.js";
import type { PlainEntries } from "../tar/plain-entries.js";
import { EntryPlace, quoteBytes, type Where } from "../tar/quote.js";
import { type Whiteout, whiteoutOf } from "../tar/whiteout.js";

/**
 * What becomes of OCI whiteouts. `keep`: the files stay what they are in the tar. `overlay`: they become what overlayfs understands, so that
 * the mounted layer can serve as a lower directory.
 */
export type WhiteoutMode = "keep" | "overlay";

const slash = 0x2f;
const dot = 0x2e;
/** Linux follows at most 40 symbolic links in one path. */
const maximumHops = 40;

const opaqueXattr = { name: Buffer.from("trusted.overlay.opaque"), value: Buffer.from("y") };
const originXattr = { name: Buffer.from("trusted.overlay.origin"), value: new Uint8Array(0) };
const none: Whiteout = { kind: "none" };

/** A layer whose tar says nothing about its root: root's, and of no particular time, so that the index depends on the tar alone. */
const defaultRoot: InodeMetadata = {
  permissions: 0o755,
  uid: 0,
  gid: 0,
  mtimeSeconds: 0,
  mtimeNanoseconds: 0,
  xattrs: noXattrs,
};

/** A hard link whose target is not in its own layer, and so has to be in one below. */
export interface DanglingLink {
  /** In the layer's tree: no leading slash, symbolic links of the layer resolved. */
  readonly path: Uint8Array;
  /** As in the tar, normalized. */
  readonly target: Uint8Array;
}

/**
 * Builds the tree of one layer from its tar entries, applying them in order as unpacking would: the last of a name counts, a directory over a
 * directory keeps what is in it, anything else replaces what was there; symbolic links in the directory part of a path are followed
 * inside the layer. All files lie on one device. What only the layers below can settle (metadata of directories the tar has no entry
 * for, targets of hard links) is told beside the tree.
 */
export class TarTree {
  readonly tree = new FileTree(defaultRoot);
  readonly #device: number;
  readonly #whiteouts: WhiteoutMode;
  /** Inodes made for whiteouts. */
  readonly #removed = new Set<number>();
  readonly #opaque = new Set<number>();
  readonly #origin = new Set<number>();
  /** Directories without an entry of their own, the root included. */
  readonly #implied = new Set<number>();
  /** Inodes that stand for hard links to a layer below; each keeps its target as a symbolic link would. */
  readonly #dangling = new Set<number>();
  #sparseChunks = 0;

  constructor(options: { readonly whiteouts: WhiteoutMode; readonly device?: number }) {
    this.#device = options.device ?? 1;
    this.#whiteouts = options.whiteouts;
    this.#implied.add(this.tree.inode(rootEntry));
  }

  /** Applies one entry. Throws `corrupt`, `unsupported` or `limit`, naming the entry. */
  add(entry: TarEntry): void {
    const where = new EntryPlace(entry.path);
    const nameAt = lastNameStart(entry.path);
    if (entry.path.length === 0) {
      this.#describe(this.tree.inode(rootEntry), this.#metadataOf(entry, where));
      return;
    }
    if (this.#whiteouts === "overlay" && isInsideAufsDirectory(entry.path, nameAt)) return;
    const whiteout = this.#whiteouts === "overlay" ? whiteoutOf(entry.path.subarray(nameAt)) : none;
    if (whiteout.kind === "aufs") return;
    const parent = this.#directoryOf(entry.path, nameAt, where);
    if (whiteout.kind === "opaque") {
      this.#opaque.add(this.tree.inode(parent));
    } else if (whiteout.kind === "remove") {
      this.#addWhiteout(parent, whiteout.name, entry, where);
    } else if (entry.type === "hardlink") {
      this.#addHardlink(parent, nameAt, entry, where);
    } else {
      this.#addInode(parent, nameAt, entry, where);
    }
  }

  /** Applies many, as `add` does one by one. */
  addPlain(entries: PlainEntries): void {
    const { count } = entries;
    const range = { count, base: entries.base, device: this.#device };
    for (let i = 0; i < count; i++) {
      if (this.#whiteouts === "keep") i = this.tree.appendPlain(entries.scanned, { from: i, ...range });
      if (i < count) this.add(entries.entry(i));
    }
  }

  /** To be called after the last entry, once: the finished tree. Hard links to layers below are not in it. */
  finish(): FinishedTarTree {
    const { inodes, xattrs } = this.tree;
    for (const [set, xattr] of [
      [this.#opaque, opaqueXattr],
      [this.#origin, originXattr],
    ] as const) {
      for (const inode of set) {
        const others = xattrs.list(inodes.xattrs(inode)).filter((x) => Buffer.compare(x.name, xattr.name) !== 0);
        inodes.setXattrs(inode, xattrs.intern([...others, xattr], "tar whiteout"));
      }
    }
    return { tree: this.tree, impliedDirectories: this.#implied, danglingLinks: this.#takeDanglingLinks() };
  }

  /** Takes the placeholders out of the tree and tells what they stood for, in the order of the tar. */
  #takeDanglingLinks(): DanglingLink[] {
    const { tree } = this;
    const links: DanglingLink[] = [];
    if (this.#dangling.size === 0) return links;
    let bytes = 0;
    for (let entry = 0; entry < tree.entryCount; entry++) {
      const inode = tree.inode(entry);
      if (!this.#dangling.has(inode)) continue;
      const link = { path: tree.path(entry).subarray(1), target: tree.inodes.target(inode).slice() };
      tree.unlink(entry);
      bytes += link.path.length + link.target.length;
      if (bytes > limits.danglingLinkBytes) {
        throw new OcifsError(
          "limit",
          `tar: hard links to files of layers below take more than ${limits.danglingLinkBytes} bytes of names`,
        );
      }
      links.push(link);
    }
    return links;
  }

  #describe(directory: number, metadata: InodeMetadata): void {
    this.tree.inodes.setMetadata(directory, metadata);
    this.#implied.delete(directory);
  }

  #addInode(parent: number, nameAt: number, entry: TarEntry, where: Where): void {
    const { tree } = this;
    const metadata = this.#metadataOf(entry, where);
    const at = tree.place(parent, entry.path, nameAt);
    if (entry.type === "directory" && tree.isDirectory(at)) {
      this.#describe(tree.inode(at), metadata);
      return;
    }
    const inode = tree.inodes.add(metadata, this.#contentOf(entry, where));
    if (entry.type === "directory") this.#makeOpaqueOver(at, inode);
    tree.link(at, inode);
  }

  #addHardlink(parent: number, nameAt: number, entry: TarEntry, where: Where): void {
    const { tree } = this;
    const missing = (what: string) =>
      new OcifsError(
        "corrupt",
        `${where}: hard link to ${quoteBytes(entry.linkPath)}, which ${what}; want an earlier entry`,
      );
    const targetNameAt = lastNameStart(entry.linkPath);
    const targetParent = this.#walk(rootEntry, entry.linkPath, targetNameAt, { create: false, hops: 0, where });
    const target =
      entry.linkPath.length === 0
        ? rootEntry
        : targetParent === noEntry
          ? noEntry
          : tree.find(targetParent, entry.linkPath, targetNameAt);
    // A directory that only lies on the way to other entries may be a file or a symbolic link below.
    const below = target === noEntry || (target !== rootEntry && this.#implied.has(tree.inode(target)));
    if (below && this.#whiteouts === "keep") {
      tree.link(tree.place(parent, entry.path, nameAt), this.#danglingInode(entry, where));
      return;
    }
    // A single layer for overlayfs has nothing to put in its place.
    if (target === noEntry) throw missing("is not in the layer");
    if (tree.isDirectory(target)) throw missing("is a directory");
    const inode = tree.inode(target);
    if (this.#removed.has(inode)) throw missing("is a whiteout");
    tree.link(tree.place(parent, entry.path, nameAt), inode);
  }

  #danglingInode(entry: TarEntry, where: Where): number {
    const inode = this.tree.inodes.add(this.#metadataOf(entry, where), { kind: "symlink", target: entry.linkPath });
    this.#dangling.add(inode);
    return inode;
  }

  /** A whiteout hides only what layers below have: an entry of the same layer stays, wherever it stands in the tar. */
  #addWhiteout(parent: number, name: Uint8Array, entry: TarEntry, where: Where): void {
    const { tree } = this;
    this.#origin.add(tree.inode(parent));
    const at = tree.place(parent, name);
    const present = tree.inode(at);
    if (present >= 0) {
      if (tree.isDirectory(at)) this.#opaque.add(present);
      return;
    }
    const metadata = { ...this.#metadataOf(entry, where), permissions: 0, xattrs: noXattrs };
    const inode = tree.inodes.add(metadata, { kind: "char", major: 0, minor: 0 });
    this.#removed.add(inode);
    tree.link(at, inode);
  }

  /** A directory in place of a whiteout: what the layers below have under this name must not show in it. */
  #makeOpaqueOver(entry: number, directoryInode: number): void {
    if (this.#removed.has(this.tree.inode(entry))) this.#opaque.add(directoryInode);
  }

  #metadataOf(entry: TarEntry, where: Where): InodeMetadata {
    return {
      permissions: entry.mode,
      uid: entry.uid,
      gid: entry.gid,
      mtimeSeconds: entry.mtimeSeconds,
      mtimeNanoseconds: entry.mtimeNanoseconds,
      xattrs: this.tree.xattrs.intern(entry.xattrs, where),
    };
  }

  #contentOf(entry: TarEntry, where: Where): InodeContent {
    switch (entry.type) {
      case "file":
        return {
          kind: "file",
          sizeBytes: entry.sizeBytes,
          device: this.#device,
          extents: this.#extentsOf(entry, where),
        };
      case "symlink":
        return { kind: "symlink", target: entry.linkPath };
      case "char":
      case "block":
        return { kind: entry.type, major: entry.deviceMajor, minor: entry.deviceMinor };
      case "directory":
      case "fifo":
        return { kind: entry.type };
      case "hardlink":
        throw new OcifsError("internal", `${where}: a hard link has no inode of its own`);
    }
  }

  #extentsOf(entry: TarEntry, where: Where): readonly DataExtent[] {
    const { sizeBytes, segments, dataOffset } = entry;
    if (segments === undefined) return sizeBytes === 0 ? [] : [{ offset: 0, sizeBytes, deviceOffset: dataOffset }];
    const extents = segments.map((piece) => ({
      offset: piece.offset,
      sizeBytes: piece.sizeBytes,
      deviceOffset: piece.tarOffset,
    }));
    const chunkBits = chunkBitsOfExtents(sizeBytes, extents);
    if (chunkBits === undefined) {
      throw new OcifsError(
        "unsupported",
        `${where}: sparse file whose holes do not begin and end at multiples of 512 bytes, or are too many; recreate the layer without sparse files`,
      );
    }
    this.#sparseChunks += Math.ceil(sizeBytes / 2 ** chunkBits);
    if (this.#sparseChunks > limits.sparseChunksOfLayer) {
      throw new OcifsError("limit", `${where}: sparse files need more than ${limits.sparseChunksOfLayer} chunks`);
    }
    return extents;
  }

  #directoryOf(path: Uint8Array, nameAt: number, where: Where): number {
    return this.#walk(rootEntry, path, nameAt, { create: true, hops: 0, where });
  }

  /**
   * The directory that bytes [0, end) of a path lead to from `from`. Missing directories are made if `create` is set, else the answer
   * is noEntry. `..` occurs only in symbolic links and stops at the root.
   */
  #walk(from: number, path: Uint8Array, end: number, state: WalkState): number {
    const { tree } = this;
    let at = path[0] === slash ? rootEntry : from;
    for (let start = 0; start < end; ) {
      let stop = start;
      while (stop < end && path[stop] !== slash) stop++;
      const size = stop - start;
      if (size === 2 && path[start] === dot && path[start + 1] === dot) {
        at = tree.parent(at);
      } else if (size > 1 || (size === 1 && path[start] !== dot)) {
        at = this.#step(at, path, start, stop, state);
        if (at === noEntry) return noEntry;
      }
      start = stop + 1;
    }
    return at;
  }

  #step(directory: number, path: Uint8Array, start: number, stop: number, state: WalkState): number {
    const { tree } = this;
    const found = tree.find(directory, path, start, stop);
    const isWhiteout = found !== noEntry && this.#removed.has(tree.inode(found));
    if (found === noEntry || isWhiteout) {
      return state.create ? this.#makeDirectory(directory, path, start, stop) : noEntry;
    }
    if (tree.isDirectory(found)) return found;
    const inode = tree.inode(found);
    if ((tree.inodes.mode(inode) & fileTypeMask) !== fileType.symlink.mode || this.#dangling.has(inode)) {
      throw new OcifsError("corrupt", `${state.where}: ${quoteBytes(tree.path(found))} on its way is not a directory`);
    }
    state.hops++;
    if (state.hops > maximumHops) {
      throw new OcifsError(
        "corrupt",
        `${state.where}: more than ${maximumHops} symbolic links on its way, a loop at ${quoteBytes(tree.path(found))}`,
      );
    }
    // A copy: making directories may move the bytes a view looks at.
    const target = tree.inodes.target(inode).slice();
    return this.#walk(directory, target, target.length, state);
  }

  /** A directory the tar has no entry for (yet): what erofs-utils makes of it, 0755 and the rest from its parent. */
  #makeDirectory(parent: number, path: Uint8Array, start: number, stop: number): number {
    const { tree } = this;
    const { inodes } = tree;
    const above = tree.inode(parent);
    const inode = inodes.add(
      {
        permissions: 0o755 | (inodes.mode(above) & 0o022),
        uid: inodes.uid(above),
        gid: inodes.gid(above),
        mtimeSeconds: inodes.mtimeSeconds(above),
        mtimeNanoseconds: inodes.mtimeNanoseconds(above),
        xattrs: noXattrs,
      },
      { kind: "directory" },
    );
    this.#implied.add(inode);
    const at = tree.place(parent, path, start, stop);
    this.#makeOpaqueOver(at, inode);
    tree.link(at, inode);
    return at;
  }
}

export interface FinishedTarTree {
  readonly tree: FileTree;
  /** Inodes of directories whose metadata the tar does not tell. Some may not be reachable any more. */
  readonly impliedDirectories: ReadonlySet<number>;
  readonly danglingLinks: readonly DanglingLink[];
}

interface WalkState {
  readonly create: boolean;
  readonly where: Where;
  hops: number;
}

/** AUFS keeps hard links and orphans in `.wh..wh.plnk/` and the like; neither is content of the layer. */
function isInsideAufsDirectory(path: Uint8Array, nameAt: number): boolean {
  for (let start = 0; start < nameAt; ) {
    const end = path.indexOf(slash, start);
    const kind = whiteoutOf(path.subarray(start, end)).kind;
    if (kind === "aufs") return true;
    start = end + 1;
  }
  return false;
}
