import { OcifsError } from "../base/errors.js";
import { readFully } from "../cache/raw-file.js";
import { fileTypeMask, fileTypes } from "../erofs/reader.js";
import { verityOf } from "../native/content.js";
import type { ErofsAttr, ErofsImage } from "../native/erofs.js";
import { ErofsDirectoryReader, type ErofsListedEntry, listedData } from "../native/erofs-directory.js";
import { whiteoutOf } from "../tar/whiteout.js";
import { type ContentTable, fileAt, INLINE_BYTES, objectName } from "./layer-table.js";

/** Files up to this size are part of a composefs image; it is part of the format, since digests of images depend on it. */
export const COMPOSEFS_INLINE_BYTES = 64;

export interface DumpLayer {
  readonly table: ContentTable;
  readonly dataFd: number;
}

/** A file whose content lies beside the image, as `xx/rest`. */
export interface ExternalFile {
  readonly digest: Buffer;
  readonly sizeBytes: number;
  /** Where it is: the i-th file of a layer's table, or ranges that have no file of their own. */
  readonly layer: number;
  readonly offset: number;
}

export interface ComposefsDumpOptions {
  readonly tree: ErofsImage;
  /** In the order of the tree's device slots, complete. */
  readonly layers: readonly DumpLayer[];
  /** One layer by itself: OCI whiteouts become overlayfs'. */
  readonly whiteouts: "keep" | "overlay";
  /** Called for each file with content beside the image, also when another has the same. */
  readonly onExternal?: (file: ExternalFile) => Promise<void>;
  readonly signal: AbortSignal;
}

interface Xattr {
  readonly name: Buffer;
  readonly value: Buffer;
}

/** A listed entry that outlives the listing. */
type Entry = Omit<ErofsAttr, "ino"> &
  Pick<ErofsListedEntry, "dataKind" | "device" | "dataOffset"> & {
    readonly path: Buffer;
    readonly target: Buffer;
    readonly xattrs: readonly Xattr[];
  };

/** The lines of mkcomposefs' dump of a tree: the same tree gives the same lines. Sorted by names, parents first, xattrs by name. */
export async function* composefsDump(o: ComposefsDumpOptions): AsyncGenerator<string> {
  const { tree } = o;
  const reader = new ErofsDirectoryReader(tree);
  const first = new Map<number, Buffer>();
  const root = {
    ...tree.getattr(tree.info().rootNid),
    path: Buffer.from("/"),
    dataKind: 0,
    device: 0,
    dataOffset: 0,
    target: Buffer.alloc(0),
  };
  const stack: Entry[] = [{ ...root, xattrs: xattrsOf(tree, root.nid) }];
  for (let entry = stack.pop(); entry; entry = stack.pop()) {
    o.signal.throwIfAborted();
    const type = entry.mode & fileTypeMask;
    if (type === fileTypes.directory) {
      const children = childrenOf(reader, entry, o.whiteouts);
      yield lineOf(children.directory, "-", "-", "-", 0);
      stack.push(...children.entries.reverse());
      continue;
    }
    const known = entry.nlink > 1 ? first.get(entry.nid) : undefined;
    if (known) {
      yield `${escaped(entry.path)} 0 @${(entry.mode >>> 0).toString(8)} - - - - 0.0 ${optional(known)} - -\n`;
      continue;
    }
    if (entry.nlink > 1) first.set(entry.nid, entry.path);
    if (type === fileTypes.symlink) yield lineOf(entry, optional(entry.target), "-", "-", entry.target.length);
    else if (type === fileTypes.file) yield await fileLine(o, entry);
    else yield lineOf(entry, "-", "-", "-", 0);
  }
}

async function fileLine(o: ComposefsDumpOptions, entry: Entry): Promise<string> {
  const { sizeBytes } = entry;
  if (sizeBytes === 0) return lineOf(entry, "-", "-", "-", 0);
  const { layer, digest, content } = await contentOf(o, entry);
  if (content) return lineOf(entry, "-", optional(content), "-", sizeBytes);
  if (!digest) throw new OcifsError("internal", "composefs: a file without digest");
  await o.onExternal?.({ digest, sizeBytes, layer, offset: entry.dataOffset });
  return lineOf(entry, objectName(digest), "-", digest.toString("hex"), sizeBytes);
}

async function contentOf(
  { layers }: ComposefsDumpOptions,
  entry: Entry,
): Promise<{ layer: number; digest?: Buffer; content?: Buffer }> {
  const { sizeBytes, dataOffset } = entry;
  if (entry.dataKind !== listedData.whole) {
    throw new OcifsError(
      "unsupported",
      `composefs: ${entry.path.toString()} is sparse in its layer; composefs takes whole files only`,
    );
  }
  const layer = layers[entry.device - 1];
  if (!layer)
    throw new OcifsError(
      "mismatch",
      `composefs: the tree names layer device ${entry.device}, there are ${layers.length}`,
    );
  const at = entry.device - 1;
  if (sizeBytes <= COMPOSEFS_INLINE_BYTES) {
    const content = Buffer.alloc(sizeBytes);
    await readFully(layer.dataFd, content, dataOffset);
    return { layer: at, content };
  }
  const i = fileAt(layer.table, dataOffset);
  if (i >= 0 && sizeBytes > INLINE_BYTES && layer.table.sizes[i] === sizeBytes) {
    return { layer: at, digest: Buffer.from(layer.table.digests.subarray(i * 32, i * 32 + 32)) };
  }
  return { layer: at, digest: await verityOf(layer.dataFd, dataOffset, sizeBytes) };
}

const slash = Buffer.from("/");
const opaque: Xattr = { name: Buffer.from("trusted.overlay.opaque"), value: Buffer.from("y") };

/** What is in a directory, and the directory as that makes it. */
function childrenOf(
  reader: ErofsDirectoryReader,
  directory: Entry,
  whiteouts: "keep" | "overlay",
): { directory: Entry; entries: Entry[] } {
  const entries: Entry[] = [];
  let isOpaque = false;
  reader.forEach(directory.nid, (listed) => {
    const whiteout = whiteouts === "overlay" ? whiteoutOf(listed.name) : ({ kind: "none" } as const);
    isOpaque ||= whiteout.kind === "opaque";
    if (whiteout.kind === "none") entries.push(entryOf(directory.path, listed.name, listed));
    if (whiteout.kind !== "remove") return;
    // What overlayfs takes for a removed file: a character device 0:0.
    const removed = { mode: fileTypes.char, nlink: 1, sizeBytes: 0, rdevMajor: 0, rdevMinor: 0, xattrs: [] };
    entries.push({ ...entryOf(directory.path, whiteout.name, listed), ...removed });
  });
  if (whiteouts === "overlay") entries.sort((a, b) => Buffer.compare(a.path, b.path));
  return { directory: isOpaque ? { ...directory, xattrs: sorted([...directory.xattrs, opaque]) } : directory, entries };
}

function entryOf(directory: Buffer, name: Uint8Array, listed: ErofsListedEntry): Entry {
  const { nid, mode, uid, gid, nlink, sizeBytes, mtimeSeconds, mtimeNanoseconds, rdevMajor, rdevMinor } = listed;
  const { dataKind, device, dataOffset } = listed;
  return {
    ...{ nid, mode, uid, gid, nlink, sizeBytes, mtimeSeconds, mtimeNanoseconds, rdevMajor, rdevMinor },
    ...{ dataKind, device, dataOffset },
    path: Buffer.concat(directory.length === 1 ? [directory, name] : [directory, slash, name]),
    target: Buffer.from(listed.target),
    xattrs: unpacked(Buffer.from(listed.xattrs)),
  };
}

function unpacked(packed: Buffer): Xattr[] {
  const xattrs: Xattr[] = [];
  for (let at = 0; at < packed.length; ) {
    const value = at + 4 + packed.readUInt16LE(at);
    const end = value + packed.readUInt16LE(at + 2);
    xattrs.push({ name: packed.subarray(at + 4, value), value: packed.subarray(value, end) });
    at = end;
  }
  return sorted(xattrs);
}

function xattrsOf(tree: ErofsImage, nid: number): Xattr[] {
  return sorted(
    tree
      .listxattr(nid)
      .map((name) => ({ name: Buffer.from(name), value: Buffer.from(tree.getxattr(nid, name) ?? []) })),
  );
}

function sorted(xattrs: Xattr[]): Xattr[] {
  return xattrs.sort((a, b) => Buffer.compare(a.name, b.name));
}

/** PATH SIZE MODE NLINK UID GID RDEV MTIME PAYLOAD CONTENT DIGEST [KEY=VALUE…] */
function lineOf(entry: Entry, payload: string, content: string, digest: string, sizeBytes: number): string {
  const { mode, nlink, uid, gid, rdevMajor: major, rdevMinor: minor } = entry;
  // As the kernel and stat(2) pack it.
  const rdev = (((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0).toString();
  const fields = [
    ...[escaped(entry.path), sizeBytes, mode.toString(8), nlink, uid, gid, rdev],
    ...[`${entry.mtimeSeconds}.${entry.mtimeNanoseconds}`, payload, content, digest],
    ...entry.xattrs.map(({ name, value }) => `${escaped(name, true)}=${escaped(value, true)}`),
  ];
  return `${fields.join(" ")}\n`;
}

/** A field that may be unset, which is a dash by itself. */
function optional(bytes: Buffer): string {
  return bytes.length === 1 && bytes[0] === 0x2d ? "\\x2d" : escaped(bytes);
}

const shortEscapes = new Map([
  [0x5c, "\\\\"],
  [0x0a, "\\n"],
  [0x0d, "\\r"],
  [0x09, "\\t"],
]);

function escaped(bytes: Buffer, inXattr = false): string {
  let text = "";
  for (const byte of bytes) {
    const plain = byte >= 0x21 && byte <= 0x7e && byte !== 0x5c && !(inXattr && byte === 0x3d);
    text += plain ? String.fromCharCode(byte) : (shortEscapes.get(byte) ?? `\\x${byte.toString(16).padStart(2, "0")}`);
  }
  return text;
}
