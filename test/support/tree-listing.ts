import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { type BigIntStats, createReadStream } from "node:fs";
import { lstat, readdir, readlink } from "node:fs/promises";
import { promisify } from "node:util";
import { type ContentDevice, type ErofsTree, fileTypeMask, fileTypes } from "../../src/erofs/reader.js";

/** One entry of a tree in comparable form. Byte strings are Latin-1, so that any byte survives. */
export interface ListedEntry {
  path: string;
  type: string;
  mode: number;
  uid: number;
  gid: number;
  mtimeNs: string;
  nlink?: number;
  size?: number;
  sha256?: string;
  target?: string;
  rdev?: string;
  xattrs: Record<string, string>;
}

const typeNames = new Map<number, string>(Object.entries(fileTypes).map(([name, bits]) => [bits, name]));

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}

function byPath(a: ListedEntry, b: ListedEntry): number {
  return a.path < b.path ? -1 : a.path > b.path ? 1 : 0;
}

/** Everything in an image, sorted by path. Content is read from `devices` where the image says so. */
export async function listErofs(tree: ErofsTree, devices: readonly ContentDevice[]): Promise<ListedEntry[]> {
  const listing: ListedEntry[] = [];
  for (const { path, attr } of tree.walk()) {
    const type = typeNames.get(attr.mode & fileTypeMask) ?? "unknown";
    const entry: ListedEntry = {
      path: latin1(path),
      type,
      mode: attr.mode & 0o7777,
      uid: attr.uid,
      gid: attr.gid,
      mtimeNs: String(BigInt(attr.mtimeSeconds) * 1_000_000_000n + BigInt(attr.mtimeNanoseconds)),
      xattrs: {},
    };
    if (type === "file") {
      const hash = createHash("sha256");
      for await (const chunk of tree.readFile(attr.nid, devices)) hash.update(chunk);
      Object.assign(entry, { nlink: attr.nlink, size: attr.sizeBytes, sha256: hash.digest("hex") });
    }
    if (type === "symlink") entry.target = latin1(tree.readlink(attr.nid));
    if (type === "char" || type === "block") entry.rdev = `${attr.rdevMajor}:${attr.rdevMinor}`;
    for (const { name, value } of tree.xattrs(attr.nid)) entry.xattrs[latin1(name)] = latin1(value);
    listing.push(entry);
  }
  return listing.sort(byPath);
}

/** The same of a directory of the system, with getfattr(1) for the xattrs. */
export async function listDirectory(root: string): Promise<ListedEntry[]> {
  const listing: ListedEntry[] = [];
  const rootBytes = Buffer.from(root);
  const visit = async (path: Buffer): Promise<void> => {
    const stat = await lstat(path, { bigint: true });
    listing.push(
      await listOne(path, path.length === rootBytes.length ? "/" : latin1(path.subarray(rootBytes.length)), stat),
    );
    if (!stat.isDirectory()) return;
    for (const name of await readdir(path, { encoding: "buffer" })) {
      await visit(Buffer.concat([path, Buffer.from("/"), name]));
    }
  };
  await visit(rootBytes);
  const xattrs = await readXattrs(root);
  for (const entry of listing) entry.xattrs = xattrs.get(entry.path) ?? {};
  return listing.sort(byPath);
}

async function listOne(path: Buffer, name: string, stat: BigIntStats): Promise<ListedEntry> {
  const type = typeNames.get(Number(stat.mode) & fileTypeMask) ?? "unknown";
  const entry: ListedEntry = {
    path: name,
    type,
    mode: Number(stat.mode) & 0o7777,
    uid: Number(stat.uid),
    gid: Number(stat.gid),
    mtimeNs: String(stat.mtimeNs),
    xattrs: {},
  };
  if (type === "file") {
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
    Object.assign(entry, { nlink: Number(stat.nlink), size: Number(stat.size), sha256: hash.digest("hex") });
  }
  if (type === "symlink") entry.target = latin1(await readlink(path, { encoding: "buffer" }));
  if (type === "char" || type === "block") {
    const dev = Number(stat.rdev);
    const major = (dev >>> 8) & 0xfff;
    entry.rdev = `${major}:${(dev & 0xff) | ((dev >>> 12) & 0xfff00)}`;
  }
  return entry;
}

/** getfattr's dump: "# file: path" with \ooo escapes, then name=0shex lines, an empty line between files. */
async function readXattrs(root: string): Promise<Map<string, Record<string, string>>> {
  const { stdout } = await promisify(execFile)(
    "getfattr",
    ["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", root],
    {
      encoding: "latin1",
      maxBuffer: 64 << 20,
    },
  );
  const found = new Map<string, Record<string, string>>();
  for (const block of stdout.split("\n\n")) {
    const [head, ...lines] = block.split("\n").filter((line) => line !== "");
    if (head === undefined) continue;
    const path = unescapeOctal(head.replace(/^# file: /, ""));
    const values: Record<string, string> = {};
    for (const line of lines) {
      const [name = "", value = ""] = line.split(/=(.*)/s);
      values[unescapeOctal(name)] = Buffer.from(value.replace(/^0x/, ""), "hex").toString("latin1");
    }
    found.set(path.slice(root.length) || "/", values);
  }
  return found;
}

function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}
