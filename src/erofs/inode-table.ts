import { OcifsError } from "../base/errors.js";
import type { InodeColumns } from "../native/tarindex.js";
import type { ByteTable } from "./byte-arena.js";
import type { DataExtent } from "./extents.js";
import { encodeDevice, fileType } from "./format.js";

/** What chmod, chown and utimes set, and the extended attributes. */
export interface InodeMetadata {
  /** 0 to 07777. */
  readonly permissions: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  /** An interned xattr set (see `XattrSets`), or `noXattrs`. */
  readonly xattrs: number;
}

export type InodeContent =
  | { readonly kind: "directory" | "fifo" | "socket" }
  | { readonly kind: "char" | "block"; readonly major: number; readonly minor: number }
  | { readonly kind: "symlink"; readonly target: Uint8Array }
  | {
      readonly kind: "file";
      readonly sizeBytes: number;
      /** 1-based device slot that holds the data. */
      readonly device: number;
      /** Ascending; chunkBitsOfExtents must accept them. */
      readonly extents: readonly DataExtent[];
    };

export const noXattrs = -1;

const modeByKind: Readonly<Record<InodeContent["kind"], number>> = {
  directory: fileType.directory.mode,
  fifo: fileType.fifo.mode,
  socket: fileType.socket.mode,
  char: fileType.char.mode,
  block: fileType.block.mode,
  symlink: fileType.symlink.mode,
  file: fileType.regular.mode,
};

/**
 * Inodes as columns of numbers, about 50 bytes each: a layer of 250,000 entries must not cost 250,000 objects.
 * Inode numbers here count from 0 and are not those on disk.
 */
export class InodeTable {
  readonly #targets: ByteTable;
  #count = 0;
  #mode = new Uint16Array(1024);
  #uid = new Uint32Array(1024);
  #gid = new Uint32Array(1024);
  #mtimeSeconds = new Float64Array(1024);
  #mtimeNanoseconds = new Uint32Array(1024);
  #sizeBytes = new Float64Array(1024);
  /** File: byte in the device where the only extent begins, or -1: no extent or several. Symlink: its target's number. Device: rdev. */
  #data = new Float64Array(1024);
  #device = new Uint16Array(1024);
  #xattrs = new Int32Array(1024);
  /** Extents of files that are not one piece. */
  readonly #pieces = new Map<number, Float64Array>();

  constructor(targets: ByteTable) {
    this.#targets = targets;
  }

  get count(): number {
    return this.#count;
  }

  get targetBytes(): number {
    return this.#targets.usedBytes;
  }

  get targetCount(): number {
    return this.#targets.count;
  }

  /** After native code has added to the columns. */
  setUsed(count: number, targetCount: number, targetBytes: number): void {
    this.#count = count;
    this.#targets.setUsed(targetCount, targetBytes);
  }

  add(metadata: InodeMetadata, content: InodeContent): number {
    const id = this.#count++;
    if (id === this.#mode.length) this.#grow();
    this.#mode[id] = modeByKind[content.kind];
    this.setMetadata(id, metadata);
    if (content.kind === "file") this.#setFile(id, content.sizeBytes, content.device, content.extents);
    else if (content.kind === "symlink") {
      this.#sizeBytes[id] = content.target.length;
      this.#data[id] = this.#targets.intern(content.target);
    } else if (content.kind === "char" || content.kind === "block") {
      this.#data[id] = encodeDevice(content.major, content.minor);
    }
    return id;
  }

  /** Replaces everything but type and content. */
  setMetadata(id: number, metadata: InodeMetadata): void {
    this.#mode[id] = (this.mode(id) & ~0o7777) | (metadata.permissions & 0o7777);
    this.#uid[id] = metadata.uid;
    this.#gid[id] = metadata.gid;
    this.#mtimeSeconds[id] = metadata.mtimeSeconds;
    this.#mtimeNanoseconds[id] = metadata.mtimeNanoseconds;
    this.#xattrs[id] = metadata.xattrs;
  }

  setXattrs(id: number, xattrs: number): void {
    this.#xattrs[id] = xattrs;
  }

  /** st_mode: type and permissions. */
  mode(id: number): number {
    return this.#mode[id] ?? 0;
  }

  uid(id: number): number {
    return this.#uid[id] ?? 0;
  }

  gid(id: number): number {
    return this.#gid[id] ?? 0;
  }

  mtimeSeconds(id: number): number {
    return this.#mtimeSeconds[id] ?? 0;
  }

  mtimeNanoseconds(id: number): number {
    return this.#mtimeNanoseconds[id] ?? 0;
  }

  /** Of a file or symlink; a directory's depends on the writer. */
  sizeBytes(id: number): number {
    return this.#sizeBytes[id] ?? 0;
  }

  /** 1-based device slot of a file's data. */
  device(id: number): number {
    return this.#device[id] ?? 0;
  }

  xattrs(id: number): number {
    return this.#xattrs[id] ?? noXattrs;
  }

  /** Of a character or block device, in EROFS's encoding. */
  rdev(id: number): number {
    return this.#data[id] ?? 0;
  }

  /** A symlink's target; a view valid until the next symlink is added. */
  target(id: number): Uint8Array {
    return this.#targets.at(this.#data[id] ?? 0);
  }

  /** All of it, as native code reads it; valid until the table changes. */
  columns(): InodeColumns & { readonly targets: ReturnType<ByteTable["columns"]> } {
    return {
      inodeCount: this.#count,
      mode: this.#mode,
      uid: this.#uid,
      gid: this.#gid,
      mtimeSeconds: this.#mtimeSeconds,
      mtimeNanoseconds: this.#mtimeNanoseconds,
      sizeBytes: this.#sizeBytes,
      data: this.#data,
      device: this.#device,
      xattrs: this.#xattrs,
      targets: this.#targets.columns(),
      pieces: Array.from(this.#pieces, ([inode, numbers]) => ({ inode, numbers })),
    };
  }

  #setFile(id: number, sizeBytes: number, device: number, extents: readonly DataExtent[]): void {
    if (device < 1 || device > 0xffff)
      throw new OcifsError("internal", `inode table: device ${device} is no slot number`);
    this.#sizeBytes[id] = sizeBytes;
    this.#device[id] = device;
    this.#data[id] = -1;
    const [first] = extents;
    if (first !== undefined && extents.length === 1 && first.offset === 0 && first.sizeBytes === sizeBytes) {
      this.#data[id] = first.deviceOffset;
    } else if (first !== undefined) {
      this.#pieces.set(id, Float64Array.from(extents.flatMap((e) => [e.offset, e.sizeBytes, e.deviceOffset])));
    }
  }

  #grow(): void {
    const size = this.#mode.length * growth;
    this.#mode = grown(this.#mode, new Uint16Array(size));
    this.#uid = grown(this.#uid, new Uint32Array(size));
    this.#gid = grown(this.#gid, new Uint32Array(size));
    this.#mtimeSeconds = grown(this.#mtimeSeconds, new Float64Array(size));
    this.#mtimeNanoseconds = grown(this.#mtimeNanoseconds, new Uint32Array(size));
    this.#sizeBytes = grown(this.#sizeBytes, new Float64Array(size));
    this.#data = grown(this.#data, new Float64Array(size));
    this.#device = grown(this.#device, new Uint16Array(size));
    this.#xattrs = grown(this.#xattrs, new Int32Array(size));
  }
}

/**
 * What outgrown arrays leave behind stays until the next garbage collection, and there are few: a third of the final size this way. What is not yet
 * used of a large array takes no memory.
 */
export const growth = 4;

/** `into` with the contents of the shorter `from`. */
export function grown<T extends { set(from: T): void }>(from: T, into: T): T {
  into.set(from);
  return into;
}
