import { constants } from "node:os";
import { errnoOfReadError } from "../base/errno.js";
import { OcifsError } from "../base/errors.js";
import { monotonicMs } from "../base/steps.js";
import { type ErofsAttr, type ErofsExtent, erofsFileType } from "../native/erofs.js";
import { type DriverStats, type MountRequest, untimed } from "./driver.js";
import type { PackageHandlers, PackageStat, PackageStatfs } from "./fuse-native-package.js";

const PAGE_ENTRIES = 1024;
/** O_ACCMODE; 0 is for reading. */
const ACCESS_MODE = 3;
/** FUSE itself would take longer ones. */
const NAME_BYTES = 255;
/** What a byte that is no UTF-8 becomes on the way here: which byte it was cannot be told. */
const REPLACEMENT = "\ufffd";
const MAX_UINT32 = 2 ** 32 - 1;
const MAX_HANDLE = 2 ** 31 - 1;

/** S_IFMT of st_mode by the type of a directory entry. */
const modeOfType = new Map<number, number>([
  [erofsFileType.file, 0o100000],
  [erofsFileType.directory, 0o040000],
  [erofsFileType.char, 0o020000],
  [erofsFileType.block, 0o060000],
  [erofsFileType.fifo, 0o010000],
  [erofsFileType.socket, 0o140000],
  [erofsFileType.symlink, 0o120000],
]);

/** Fails an operation with this errno. */
class Refusal extends Error {
  constructor(readonly errno: number) {
    super(`errno ${errno}`);
  }
}

/** The text of bytes that are UTF-8; undefined for others, and for text with U+FFFD in it, which others come as. */
function textOf(bytes: Uint8Array): string | undefined {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.includes(REPLACEMENT) ? undefined : text;
  } catch {
    return undefined;
  }
}

type Extent = Extract<ErofsExtent, { kind: "device" }>;

/** The exposed tree, by paths, for the package fuse-native. After `stop` every answer is EIO. */
export class PathTree {
  readonly handlers: PackageHandlers = {
    getattr: (path, answer) => this.#answer(answer, () => answer(0, this.#stat(this.#find(path)))),
    readdir: (path, answer) => this.#answer(answer, () => answer(0, ...this.#list(this.#find(path)))),
    readlink: (path, answer) => this.#answer(answer, () => answer(0, this.#target(this.#find(path)))),
    open: (path, flags, answer) =>
      this.#answer(answer, () => {
        if ((flags & ACCESS_MODE) !== 0) throw new Refusal(constants.errno.EROFS);
        const nid = this.#find(path);
        // 0: reads look the path up again.
        answer(0, nid <= MAX_HANDLE ? nid : 0);
      }),
    read: (path, handle, into, length, offset, answer) => {
      this.#reads++;
      void this.#answer(answer, async () => {
        const nid = handle > 0 ? handle : this.#find(path);
        const bytes = await this.#read(nid, into.subarray(0, length), offset);
        this.#readBytes += bytes;
        answer(bytes);
      });
    },
    statfs: (_path, answer) => this.#answer(answer, () => answer(0, this.#statfs())),
    getxattr: (path, name, into, answer) =>
      this.#answer(answer, () => {
        const value = this.#tree.image.getxattr(this.#find(path), Buffer.from(name));
        if (value === null) throw new Refusal(constants.errno.ENODATA);
        answer(putInto(into, value));
      }),
    listxattr: (path, into, answer) =>
      this.#answer(answer, () => {
        // trusted.* too: who asks cannot be told, and a copy by root must not lose any.
        const names = this.#tree.image.listxattr(this.#find(path));
        answer(putInto(into, Buffer.concat(names.flatMap((name) => [name, Buffer.of(0)]))));
      }),
  };
  readonly #tree: MountRequest["tree"];
  readonly #onMiss: MountRequest["onMiss"];
  readonly #deviceSizes: readonly number[];
  readonly #stopped: Promise<never>;
  #stop: () => void = () => undefined;
  #isStopped = false;
  #requests = 0;
  #reads = 0;
  #readBytes = 0;
  #parked = 0;
  #errors = 0;

  constructor({ tree, onMiss }: Pick<MountRequest, "tree" | "onMiss">) {
    this.#tree = tree;
    this.#onMiss = onMiss;
    this.#deviceSizes = tree.devices.map((store) => store.stats().sizeBytes);
    this.#stopped = new Promise((_, reject) => {
      this.#stop = () => {
        this.#isStopped = true;
        reject(new Refusal(constants.errno.EIO));
      };
    });
    this.#stopped.catch(() => undefined);
  }

  stats(): DriverStats {
    const [requests, reads, readBytes] = [this.#requests, this.#reads, this.#readBytes];
    return { requests, reads, readBytes, parked: this.#parked, interrupted: 0, errors: this.#errors, ...untimed };
  }

  /** What waits fails, and what comes from now on. */
  stop(): void {
    this.#stop();
  }

  /** Runs what answers; what it throws becomes the answer. A promise settles when it was answered. */
  async #answer(answer: (code: number) => void, run: () => void | Promise<void>): Promise<void> {
    this.#requests++;
    try {
      if (this.#isStopped) throw new Refusal(constants.errno.EIO);
      await run();
    } catch (error) {
      const errno = error instanceof Refusal ? error.errno : errnoOfReadError(error);
      if (errno === constants.errno.EIO) this.#errors++;
      answer(-errno);
    }
  }

  /** The inode that a path names. Names that are not UTF-8 cannot be asked for: what comes for them says nothing. */
  #find(path: string): number {
    if (path.includes(REPLACEMENT)) throw new Refusal(constants.errno.ENOENT);
    const { image } = this.#tree;
    let nid = image.info().rootNid;
    for (const name of path.split("/")) {
      if (name === "") continue;
      const bytes = Buffer.from(name);
      if (bytes.length > NAME_BYTES) throw new Refusal(constants.errno.ENAMETOOLONG);
      const found = image.lookup(nid, bytes);
      if (found === null) throw new Refusal(constants.errno.ENOENT);
      nid = found.nid;
    }
    return nid;
  }

  #stat(nid: number): PackageStat {
    const attr = this.#tree.image.getattr(nid);
    // Neither the package nor its structures have times before 1970, or finer ones.
    const time = Math.max(0, attr.mtimeSeconds * 1000 + Math.floor(attr.mtimeNanoseconds / 1e6));
    return {
      mode: attr.mode,
      uid: attr.uid,
      gid: attr.gid,
      size: attr.sizeBytes,
      nlink: attr.nlink,
      ino: inoOf(nid),
      rdev: rdevOf(attr),
      blksize: 4096,
      // As the driver fuse says it: fewer than the size would be taken for holes.
      blocks: Math.ceil(attr.sizeBytes / 512),
      atime: time,
      mtime: time,
      ctime: time,
    };
  }

  /** Names that can be asked for, and type and number of each. */
  #list(nid: number): [string[], PackageStat[]] {
    const names: string[] = [];
    const stats: PackageStat[] = [];
    const none = { uid: 0, gid: 0, size: 0, nlink: 1, rdev: 0, blksize: 0, blocks: 0, atime: 0, mtime: 0, ctime: 0 };
    for (let cookie = 0, done = false; !done; ) {
      const page = this.#tree.image.readdir(nid, cookie, PAGE_ENTRIES);
      for (const entry of page.entries) {
        const name = textOf(entry.name);
        if (name === undefined) continue;
        names.push(name);
        stats.push({ ...none, mode: modeOfType.get(entry.type) ?? 0, ino: inoOf(entry.nid) });
      }
      ({ cookie, done } = page);
    }
    return [names, stats];
  }

  #target(nid: number): string {
    const target = textOf(this.#tree.image.readlink(nid));
    if (target !== undefined) return target;
    throw new OcifsError("unsupported", `inode ${nid}: driver fuse-native cannot give a link target that is not UTF-8`);
  }

  #statfs(): PackageStatfs {
    const { sizeBytes, inodeCount } = this.#tree.image.info();
    const bytes = this.#deviceSizes.reduce((sum, size) => sum + size, sizeBytes);
    let bsize = 4096;
    while (bytes / bsize > MAX_UINT32) bsize *= 2;
    return { bsize, frsize: bsize, blocks: Math.ceil(bytes / bsize), files: inodeCount, namemax: NAME_BYTES };
  }

  /** Resolves to how many bytes it has put into `into`: all, unless the file ends before. */
  async #read(nid: number, into: Buffer, offset: number): Promise<number> {
    const { image } = this.#tree;
    const size = Math.max(0, Math.min(into.length, image.getattr(nid).sizeBytes - offset));
    for (let done = 0; done < size; ) {
      const extents = image.mapRange(nid, offset + done, size - done);
      if (extents.length === 0) throw new OcifsError("corrupt", `inode ${nid}: nothing at ${offset + done}`);
      for (const extent of extents) {
        const part = into.subarray(done, done + extent.length);
        if (extent.kind === "hole") part.fill(0);
        else if (extent.kind === "index") part.set(image.readIndex(extent.offset, extent.length));
        else await this.#readDevice(nid, extent, part);
        done += extent.length;
      }
    }
    return size;
  }

  async #readDevice(nid: number, { device, fileOffset, offset }: Extent, into: Buffer): Promise<void> {
    const store = this.#tree.devices[device - 1];
    const deviceSize = this.#deviceSizes[device - 1];
    if (store === undefined || deviceSize === undefined) {
      throw new OcifsError("corrupt", `inode ${nid}: it lies on device ${device}, which is not there`);
    }
    for (;;) {
      // Not to be given up while it writes into memory that is libfuse's again after the answer.
      const missing = await store.read(offset, into);
      if (missing === true) return;
      if (this.#isStopped) throw new Refusal(constants.errno.EIO);
      const { first, last } = missing;
      const fileRest = this.#tree.image.getattr(nid).sizeBytes - fileOffset;
      const fileEnd = store.spanAt(Math.min(offset + fileRest, deviceSize) - 1);
      this.#parked++;
      const waiting = store.park(first, last);
      this.#onMiss(device, first, last, Math.max(last, fileEnd), monotonicMs());
      const errno = await Promise.race([waiting, this.#stopped]);
      if (errno !== 0) throw new Refusal(errno);
    }
  }
}

/** The whole value, or its size for an empty buffer. */
function putInto(into: Buffer, value: Uint8Array): number {
  if (into.length === 0) return value.length;
  if (into.length < value.length) throw new Refusal(constants.errno.ERANGE);
  into.set(value);
  return value.length;
}

/** An index has far fewer than 2^32 slots for inodes; what stands behind them in a damaged one has some number or other. */
function inoOf(nid: number): number {
  return nid % 2 ** 32;
}

/** new_encode_dev of the kernel, which is also the low half of the C library's dev_t. */
function rdevOf({ rdevMajor: major, rdevMinor: minor }: ErofsAttr): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}
