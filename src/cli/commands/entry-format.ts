import { fileTypeMask, fileTypes } from "../../erofs/reader.js";
import type { ErofsAttr } from "../../native/erofs.js";

const typeLetters = new Map<number, string>([
  [fileTypes.file, "-"],
  [fileTypes.directory, "d"],
  [fileTypes.symlink, "l"],
  [fileTypes.char, "c"],
  [fileTypes.block, "b"],
  [fileTypes.fifo, "p"],
  [fileTypes.socket, "s"],
]);

const typeNames = new Map<number, string>([
  [fileTypes.file, "file"],
  [fileTypes.directory, "dir"],
  [fileTypes.symlink, "symlink"],
  [fileTypes.char, "char"],
  [fileTypes.block, "block"],
  [fileTypes.fifo, "fifo"],
  [fileTypes.socket, "socket"],
]);

export function typeName(attr: ErofsAttr): string {
  return typeNames.get(attr.mode & fileTypeMask) ?? "unknown";
}

/** `drwxr-sr-t`, as ls(1) writes modes. */
export function formatMode(mode: number): string {
  const bits = [..."rwxrwxrwx"].map((letter, i) => ((mode >> (8 - i)) & 1 ? letter : "-"));
  const special = (at: number, set: boolean, letter: string) => {
    if (set) bits[at] = bits[at] === "-" ? letter.toUpperCase() : letter;
  };
  special(2, (mode & 0o4000) !== 0, "s");
  special(5, (mode & 0o2000) !== 0, "s");
  special(8, (mode & 0o1000) !== 0, "t");
  return (typeLetters.get(mode & fileTypeMask) ?? "?") + bits.join("");
}

/** ISO 8601 in UTC with all nine decimals when there are any. Years beyond what Date can show come as seconds. */
export function formatTime(attr: ErofsAttr): string {
  const date = new Date(attr.mtimeSeconds * 1000);
  if (Number.isNaN(date.getTime())) return `@${attr.mtimeSeconds}`;
  const fraction = attr.mtimeNanoseconds === 0 ? "" : `.${String(attr.mtimeNanoseconds).padStart(9, "0")}`;
  return `${date.toISOString().slice(0, -5)}${fraction}Z`;
}

/** The entry's attributes for `--json`. */
export function describeAttr(attr: ErofsAttr): Record<string, unknown> {
  const type = attr.mode & fileTypeMask;
  const device = type === fileTypes.char || type === fileTypes.block;
  return {
    type: typeName(attr),
    mode: `0${(attr.mode & 0o7777).toString(8)}`,
    uid: attr.uid,
    gid: attr.gid,
    nlink: attr.nlink,
    size: attr.sizeBytes,
    mtime: formatTime(attr),
    inode: attr.nid,
    ...(device ? { rdev: `${attr.rdevMajor}:${attr.rdevMinor}` } : {}),
  };
}
