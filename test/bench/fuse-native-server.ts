/**
 * A mount by the package fuse-native with the simplest handlers that answer at all: nothing is looked up on disk, nothing is
 * checked. Prints "ready"; unmounts at SIGTERM.
 *
 *   fuse-native-server.js MOUNTPOINT memory PATH   one file "/file" with the bytes of PATH, held in memory
 *   fuse-native-server.js MOUNTPOINT file PATH     the same, each read passed on to PATH by fs.read
 *   fuse-native-server.js MOUNTPOINT tree LISTING  empty contents; LISTING is JSON: [path, mode, size][]
 */
import { read as fsRead, openSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname } from "node:path";

interface Stat {
  readonly mode: number;
  readonly size: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: Date;
  readonly atime: Date;
  readonly ctime: Date;
}

type Callback<T> = (code: number, value?: T) => void;

interface Handlers {
  readdir(path: string, callback: Callback<readonly string[]>): void;
  getattr(path: string, callback: Callback<Stat>): void;
  readlink(path: string, callback: Callback<string>): void;
  open(path: string, flags: number, callback: Callback<number>): void;
  read(path: string, fd: number, buffer: Buffer, length: number, position: number, callback: Callback<never>): void;
}

interface FuseNative {
  mount(callback: (error: Error | null) => void): void;
  unmount(callback: (error: Error | null) => void): void;
}

/** The package brings no types. */
type FuseNativeClass = new (mountpoint: string, handlers: Handlers, options: object) => FuseNative;

const ENOENT = -2;
const EIO = -5;
const time = new Date(0);
const [mountpoint = "", kind = "", source = ""] = process.argv.slice(2);

const stats = new Map<string, Stat>();
const names = new Map<string, string[]>();
function add(path: string, mode: number, size: number): void {
  stats.set(path, { mode, size, nlink: 1, uid: 0, gid: 0, mtime: time, atime: time, ctime: time });
  if (path === "/") return;
  const parent = dirname(path);
  const siblings = names.get(parent);
  if (siblings === undefined) names.set(parent, [basename(path)]);
  else siblings.push(basename(path));
}

let content = Buffer.alloc(0);
if (kind === "tree") {
  for (const [path, mode, size] of JSON.parse(readFileSync(source, "utf8")) as [string, number, number][]) {
    add(path, mode, size);
  }
} else {
  add("/", 0o040755, 0);
  add("/file", 0o100644, statSync(source).size);
  if (kind === "memory") content = readFileSync(source);
}

const sourceFd = kind === "file" ? openSync(source, "r") : -1;
const read: Handlers["read"] =
  kind === "file"
    ? (_path, _fd, buffer, length, position, callback) =>
        fsRead(sourceFd, buffer, 0, length, position, (error, count) => callback(error === null ? count : EIO))
    : (_path, _fd, buffer, length, position, callback) =>
        callback(content.copy(buffer, 0, position, position + length));

const Fuse = createRequire(import.meta.url)("fuse-native") as FuseNativeClass;
const fuse = new Fuse(
  mountpoint,
  {
    readdir: (path, callback) => callback(0, names.get(path) ?? []),
    getattr: (path, callback) => {
      const stat = stats.get(path);
      if (stat === undefined) callback(ENOENT);
      else callback(0, stat);
    },
    // Where a link leads is not in the listing; ls asks all the same.
    readlink: (_path, callback) => callback(0, "elsewhere"),
    open: (_path, _flags, callback) => callback(0, 1),
    read,
  },
  {},
);
fuse.mount((error) => {
  if (error !== null && error !== undefined) throw error;
  process.stderr.write("ready\n");
});
process.on("SIGTERM", () => fuse.unmount((error) => process.exit(error ? 1 : 0)));
