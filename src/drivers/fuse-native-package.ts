import { createRequire } from "node:module";
import { constants } from "node:os";

/** Errno of an answer, negative, or what it answers. */
type Answer<T extends unknown[]> = (code: number, ...value: T) => void;

/** As the package packs it for libfuse: numbers up to 2^32, size and blocks up to 2^53, times in milliseconds from 1970 on. */
export interface PackageStat {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly nlink: number;
  readonly ino: number;
  /** dev_t of the C library, low 32 bits. */
  readonly rdev: number;
  readonly blksize: number;
  readonly blocks: number;
  readonly atime: number;
  readonly mtime: number;
  readonly ctime: number;
}

export interface PackageStatfs {
  readonly bsize: number;
  readonly frsize: number;
  readonly blocks: number;
  readonly files: number;
  readonly namemax: number;
}

/** What answers. Paths are absolute; a byte that is not UTF-8 has become U+FFFD in them. Buffers belong to libfuse until the answer. */
export interface PackageHandlers {
  getattr(path: string, answer: Answer<[PackageStat?]>): void;
  readdir(path: string, answer: Answer<[names?: readonly string[], stats?: readonly PackageStat[]]>): void;
  readlink(path: string, answer: Answer<[string?]>): void;
  open(path: string, flags: number, answer: Answer<[handle?: number]>): void;
  /** Answers how many bytes it has put into the buffer. */
  read(path: string, handle: number, into: Buffer, length: number, offset: number, answer: Answer<[]>): void;
  statfs(path: string, answer: Answer<[PackageStatfs?]>): void;
  /** Answers the size of the value, which it has put into the buffer unless that is empty. */
  getxattr(path: string, name: string, into: Buffer, answer: Answer<[]>): void;
  /** The same, of all names, each with a NUL behind it. */
  listxattr(path: string, into: Buffer, answer: Answer<[]>): void;
}

export interface PackageMount {
  /** Calls back when libfuse has answered the kernel's INIT. */
  mount(done: (error: Error | null) => void): void;
  /** What it keeps alive for the mount, which somebody else has removed or will. */
  unmount(done: (error: Error | null) => void): void;
}

/** Operations that change something. */
const changes = [
  ...["create", "mknod", "mkdir", "symlink", "link", "rename", "unlink", "rmdir", "truncate", "write"],
  ...["chmod", "chown", "utimens", "setxattr", "removexattr"],
] as const;

/** The last argument of each is what takes the answer. */
function refuse(...args: unknown[]): void {
  (args.at(-1) as (code: number) => void)(-constants.errno.EROFS);
}

/** The package's class, with what we replace of it. It brings no types. */
interface PackageInstance extends PackageMount {
  _fuseOptions: () => string;
  _op_getxattr: (signal: Signal, path: string, name: string, into: Buffer) => void;
  _op_listxattr: (signal: Signal, path: string, into: Buffer) => void;
}
type Signal = (code: number, buffer: ArrayBufferLike) => void;
interface PackageClass {
  new (mountpoint: string, handlers: object, options: { readonly timeout: false }): PackageInstance;
  unmount: (mountpoint: string, done: (error: null) => void) => void;
}

/** Of every mount there was: a thread of libfuse may use it for a moment longer than anybody can know, and nothing else refers to it. */
const instances: PackageInstance[] = [];

let loaded: PackageClass | undefined;

/** Loads package and libfuse 2. Throws what `require` throws when one of them is not there. */
export function loadFuseNative(): void {
  if (loaded !== undefined) return;
  loaded = createRequire(import.meta.url)("fuse-native") as PackageClass;
  // It would give the path to a shell. Who unmounts does it without the package.
  loaded.unmount = (_mountpoint, done) => done(null);
}

/** A mount that is yet to be made. `options`: those of libfuse, separated by commas. `loadFuseNative` comes before. */
export function newPackageMount(mountpoint: string, handlers: PackageHandlers, options: string): PackageMount {
  if (loaded === undefined) throw new Error("fuse-native is not loaded");
  // The kernel refuses changes before they come here, unless root has remounted it.
  const refusals = Object.fromEntries(changes.map((name) => [name, refuse]));
  // Without its timeout: what it answered then, 15 s later, would write into a buffer that is no longer libfuse's.
  const instance = new loaded(mountpoint, { ...handlers, ...refusals }, { timeout: false });
  // It knows neither read-only nor our validities.
  instance._fuseOptions = () => `-o${options}`;
  // It answers with more bytes than the buffer has, and with a wrong size when that is asked for.
  instance._op_getxattr = (signal, path, name, into) =>
    handlers.getxattr(path, name, into, (code) => signal(code, into.buffer));
  instance._op_listxattr = (signal, path, into) => handlers.listxattr(path, into, (code) => signal(code, into.buffer));
  instances.push(instance);
  return instance;
}
