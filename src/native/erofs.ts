import { addon, callNative } from "./addon.js";

/** EROFS directory entry types; 0 or any other number says nothing, ask for the mode. */
export const erofsFileType = { file: 1, directory: 2, char: 3, block: 4, fifo: 5, socket: 6, symlink: 7 } as const;

export interface ErofsDeviceSlot {
  /** Up to 64 bytes; merged images put the layer's digest here, in hex. */
  readonly tag: Uint8Array;
  readonly blocks: number;
  /** First block of the device in the flat address space; 0 = it is not mapped there. */
  readonly uniaddr: number;
}

export interface ErofsInfo {
  readonly rootNid: number;
  readonly inodeCount: number;
  readonly blockSizeBytes: number;
  /** Of the mapped file. */
  readonly sizeBytes: number;
  readonly primaryBlocks: number;
  readonly devices: readonly ErofsDeviceSlot[];
}

export interface ErofsAttr {
  readonly nid: number;
  /** Serial number of the inode, for 32-bit stat; `nid` is what identifies it. */
  readonly ino: number;
  /** File type and permission bits, as st_mode. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  readonly sizeBytes: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
}

export interface ErofsLookup {
  readonly nid: number;
  /** See `erofsFileType`. */
  readonly type: number;
}

export interface ErofsDirent extends ErofsLookup {
  readonly name: Uint8Array;
}

export interface ErofsDirPage {
  readonly entries: readonly ErofsDirent[];
  /** Where to continue. */
  readonly cookie: number;
  readonly done: boolean;
}

/** Records written by `listDirectory`; src/native/erofs-directory.ts reads them. */
export interface ErofsListedPage {
  readonly usedBytes: number;
  /** Where to continue. */
  readonly cookie: number;
  readonly done: boolean;
}

/** A run of a file's bytes: zeros, bytes of the image file, or bytes of a device (1-based slot number). */
export type ErofsExtent =
  | { readonly kind: "hole"; readonly fileOffset: number; readonly length: number }
  | { readonly kind: "index"; readonly fileOffset: number; readonly length: number; readonly offset: number }
  | {
      readonly kind: "device";
      readonly fileOffset: number;
      readonly length: number;
      readonly device: number;
      readonly offset: number;
    };

interface NativeImage {
  info(): ErofsInfo;
  getattr(nid: number): ErofsAttr;
  lookup(nid: number, name: Uint8Array): ErofsLookup | null;
  readdir(nid: number, cookie: number, maxEntries: number): ErofsDirPage;
  listDirectory(nid: number, cookie: number, buffer: Uint8Array): ErofsListedPage;
  readlink(nid: number): Uint8Array;
  listxattr(nid: number): Uint8Array[];
  getxattr(nid: number, name: Uint8Array): Uint8Array | null;
  mapRange(nid: number, offset: number, length: number): ErofsExtent[];
  readIndex(offset: number, length: number): Uint8Array;
  close(): void;
}

const native = addon as { openErofsImage(fd: number, xattrsAreFlagged: boolean): NativeImage };

/**
 * An EROFS image mapped into memory. Every call answers at once from the mapping. Errors are OcifsErrors: `corrupt` for
 * bytes that make no sense, `unsupported` for a feature (compression, for one), `usage` for an inode of the wrong type,
 * `aborted` after close.
 */
export class ErofsImage implements Disposable {
  /** For native components that take the image: the addon's own object. */
  readonly native: object;
  readonly #image: NativeImage;

  /**
   * Maps the file; `fd` may be closed as soon as this returns. The file must not shrink while it is mapped. `xattrsAreFlagged`: ocifs wrote it, so
   * its superblock says whether there are any xattrs at all; a mount then need not ask for each file.
   */
  constructor(fd: number, options: { readonly xattrsAreFlagged?: boolean } = {}) {
    this.#image = callNative(() => native.openErofsImage(fd, options.xattrsAreFlagged === true));
    this.native = this.#image;
  }

  info(): ErofsInfo {
    return callNative(() => this.#image.info());
  }

  getattr(nid: number): ErofsAttr {
    return callNative(() => this.#image.getattr(nid));
  }

  /** The entry `name` of directory `nid`, or null. */
  lookup(nid: number, name: Uint8Array): ErofsLookup | null {
    return callNative(() => this.#image.lookup(nid, name));
  }

  /** Up to `maxEntries` entries from `cookie` (0 = start), with "." and ".." as stored. */
  readdir(nid: number, cookie: number, maxEntries: number): ErofsDirPage {
    return callNative(() => this.#image.readdir(nid, cookie, maxEntries));
  }

  /**
   * Fills `buffer` with the entries from `cookie` (0 = start) and all that is known of their inodes, without "." and "..", as packed
   * records: `ErofsDirectoryReader` is for reading them. `limit` when an entry alone does not fit.
   */
  listDirectory(nid: number, cookie: number, buffer: Uint8Array): ErofsListedPage {
    return callNative(() => this.#image.listDirectory(nid, cookie, buffer));
  }

  readlink(nid: number): Uint8Array {
    return callNative(() => this.#image.readlink(nid));
  }

  /** Full names, without NUL. */
  listxattr(nid: number): readonly Uint8Array[] {
    return callNative(() => this.#image.listxattr(nid));
  }

  getxattr(nid: number, name: Uint8Array): Uint8Array | null {
    return callNative(() => this.#image.getxattr(nid, name));
  }

  /**
   * The extents of [offset, offset + length) of a regular file, clipped to its size, in order and without gaps. A file of
   * very many chunks may be answered in part: continue after the last extent.
   */
  mapRange(nid: number, offset: number, length: number): readonly ErofsExtent[] {
    return callNative(() => this.#image.mapRange(nid, offset, length));
  }

  /** A copy of bytes of the mapped file. */
  readIndex(offset: number, length: number): Uint8Array {
    return callNative(() => this.#image.readIndex(offset, length));
  }

  /** Native components that hold the image keep it mapped. */
  close(): void {
    callNative(() => this.#image.close());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
