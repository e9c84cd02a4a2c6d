import { open } from "node:fs/promises";
import { messageOf, OcifsError, throwIfAborted } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { type ErofsAttr, type ErofsDirent, ErofsImage, type ErofsInfo, type ErofsLookup } from "../native/erofs.js";

/** S_IFMT and the types, as in st_mode. */
export const fileTypeMask = 0o170000;
export const fileTypes = {
  socket: 0o140000,
  symlink: 0o120000,
  file: 0o100000,
  block: 0o060000,
  directory: 0o040000,
  char: 0o020000,
  fifo: 0o010000,
} as const;

/** What reading file content needs of a device: a LayerDevice is one. */
export interface ContentDevice {
  /** Exactly `length` bytes unless the device ends before. */
  read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>;
}

export interface WalkEntry {
  /** Absolute, without trailing slash; the root is "/". */
  readonly path: Uint8Array;
  readonly attr: ErofsAttr;
}

/** Entries fetched from native code at a time: a page that costs little memory and few calls. */
const pageEntries = 1024;
/** A read of file content is split into pieces of this size, the largest read the kernel sends to FUSE. */
const chunkBytes = 1 << 20;

const slash = 0x2f;
const dot = 0x2e;

function isDotOrDotDot(name: Uint8Array): boolean {
  return name[0] === dot && (name.length === 1 || (name.length === 2 && name[1] === dot));
}

/** `parent`/`name`, for absolute paths. */
export function joinPath(parent: Uint8Array, name: Uint8Array): Uint8Array {
  const separator = parent.length === 1 ? 0 : 1;
  const path = new Uint8Array(parent.length + separator + name.length);
  path.set(parent);
  path[parent.length - 1 + separator] = slash;
  path.set(name, parent.length + separator);
  return path;
}

function isDirectory(attr: ErofsAttr): boolean {
  return (attr.mode & fileTypeMask) === fileTypes.directory;
}

/** The tree of an EROFS image or tarindex, for commands and tests; mounts use the native image directly. */
export class ErofsTree implements AsyncDisposable {
  readonly image: ErofsImage;
  readonly info: ErofsInfo;

  private constructor(image: ErofsImage) {
    this.image = image;
    this.info = image.info();
  }

  /** The tree of an open image, which it takes over. */
  static of(image: ErofsImage): ErofsTree {
    return new ErofsTree(image);
  }

  /** Maps the file at `path`. Throws `io`, `corrupt`, `unsupported` or `limit`. */
  static async open(path: string): Promise<ErofsTree> {
    const file = await open(path, "r").catch((cause: unknown) => {
      throw new OcifsError("io", `EROFS image ${path}: cannot open: ${messageOf(cause)}`, { cause });
    });
    try {
      const { size } = await file.stat();
      if (size > limits.tarindexBytes) {
        throw new OcifsError("limit", `EROFS image ${path}: ${size} bytes, at most ${limits.tarindexBytes} are mapped`);
      }
      return new ErofsTree(new ErofsImage(file.fd));
    } finally {
      await file.close();
    }
  }

  stat(nid: number): ErofsAttr {
    return this.image.getattr(nid);
  }

  lookup(nid: number, name: Uint8Array): ErofsLookup | null {
    return this.image.lookup(nid, name);
  }

  readlink(nid: number): Uint8Array {
    return this.image.readlink(nid);
  }

  /** The xattrs of an inode, in the order they are stored. */
  *xattrs(nid: number): Generator<{ readonly name: Uint8Array; readonly value: Uint8Array }> {
    for (const name of this.image.listxattr(nid)) {
      const value = this.image.getxattr(nid, name);
      if (value === null) {
        throw new OcifsError("internal", `EROFS inode ${nid}: an xattr that is listed cannot be read`);
      }
      yield { name, value };
    }
  }

  /** The entries of a directory without "." and "..", in the order they are stored. */
  *entries(nid: number): Generator<ErofsDirent> {
    for (let cookie = 0, done = false; !done; ) {
      const page = this.image.readdir(nid, cookie, pageEntries);
      for (const entry of page.entries) if (!isDotOrDotDot(entry.name)) yield entry;
      cookie = page.cookie;
      done = page.done;
    }
  }

  /**
   * Every entry below and including directory or file `nid`, parents before children, in stored order. A directory that
   * is reached twice (a loop, or a second name) is `corrupt`: a tar has no such thing, and the walk would not end.
   */
  *walk(nid: number = this.info.rootNid, path: Uint8Array = Uint8Array.of(slash)): Generator<WalkEntry> {
    const seen = new Set<number>([nid]);
    const attr = this.stat(nid);
    yield { path, attr };
    if (!isDirectory(attr)) return;
    const stack = [{ path, entries: this.entries(nid) }];
    for (let count = 0, top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const next = top.entries.next();
      if (next.done === true) {
        stack.pop();
        continue;
      }
      count++;
      if (count > limits.tarEntries) {
        throw new OcifsError("limit", `EROFS image: walk of more than ${limits.tarEntries} entries`);
      }
      const entry = { path: joinPath(top.path, next.value.name), attr: this.stat(next.value.nid) };
      yield entry;
      if (!isDirectory(entry.attr)) continue;
      if (seen.has(entry.attr.nid)) {
        throw new OcifsError(
          "corrupt",
          `EROFS image: directory inode ${entry.attr.nid} has more than one parent entry`,
        );
      }
      if (stack.length >= limits.pathDepth) {
        throw new OcifsError("limit", `EROFS image: directories are nested more than ${limits.pathDepth} deep`);
      }
      seen.add(entry.attr.nid);
      stack.push({ path: entry.path, entries: this.entries(entry.attr.nid) });
    }
  }

  /**
   * Bytes [offset, offset + length) of a regular file, clipped to its size. `devices[k - 1]` is the image's device k.
   * Throws `mismatch` when a device is missing or ends early.
   */
  async read(
    nid: number,
    offset: number,
    length: number,
    devices: readonly ContentDevice[],
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const { sizeBytes } = this.stat(nid);
    const end = Math.min(offset + length, sizeBytes);
    const bytes = new Uint8Array(Math.max(0, end - offset));
    for (let at = offset; at < end; ) {
      throwIfAborted(signal, `read of EROFS inode ${nid}`);
      const extents = this.image.mapRange(nid, at, end - at);
      if (extents.length === 0) throw new OcifsError("internal", `EROFS inode ${nid}: no extent at byte ${at}`);
      for (const extent of extents) {
        const into = extent.fileOffset - offset;
        if (extent.kind === "index") bytes.set(this.image.readIndex(extent.offset, extent.length), into);
        if (extent.kind === "device") {
          bytes.set(await readDevice(devices, extent.device, extent.offset, extent.length, signal), into);
        }
        at = extent.fileOffset + extent.length;
      }
    }
    return bytes;
  }

  /** The content of a regular file, in order, in pieces of at most 1 MiB. */
  async *readFile(nid: number, devices: readonly ContentDevice[], signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const { sizeBytes } = this.stat(nid);
    if (sizeBytes === 0) this.image.mapRange(nid, 0, 0); // checks the inode's type
    for (let at = 0; at < sizeBytes; at += chunkBytes) yield await this.read(nid, at, chunkBytes, devices, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.image.close();
  }
}

async function readDevice(
  devices: readonly ContentDevice[],
  number: number,
  offset: number,
  length: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const device = devices[number - 1];
  if (device === undefined) {
    throw new OcifsError("mismatch", `EROFS image: names layer device ${number}, ${devices.length} are given`);
  }
  const bytes = await device.read(offset, length, signal);
  if (bytes.length !== length) {
    throw new OcifsError(
      "mismatch",
      `layer device ${number}: ${bytes.length} bytes at ${offset}, the index wants ${length}; index and layer do not belong together`,
    );
  }
  return bytes;
}
