import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { SparseSegment, TarEntry, TarEntryType } from "./entry.js";
import type { Extensions } from "./extensions.js";
import { type TarHeader, typeflags } from "./header.js";
import { checkSymlinkTarget, endsWithSlash, normalizePath } from "./path.js";
import type { Where } from "./quote.js";
import { piecesOfList, placePieces, type SparsePiece } from "./sparse.js";

/** How an entry says where its holes are. */
export type SparseFormat =
  | { readonly kind: "old-gnu" }
  | { readonly kind: "pax-list"; readonly pieces: readonly SparsePiece[] }
  | { readonly kind: "pax-map" };

const typeByFlag: Readonly<Record<number, TarEntryType>> = {
  [typeflags.regularV7]: "file",
  [typeflags.regular]: "file",
  [typeflags.contiguous]: "file",
  [typeflags.gnuSparse]: "file",
  [typeflags.hardlink]: "hardlink",
  [typeflags.symlink]: "symlink",
  [typeflags.char]: "char",
  [typeflags.block]: "block",
  [typeflags.directory]: "directory",
  [typeflags.fifo]: "fifo",
};

const maximumId = 0xffff_ffff;
/** Linux: 12 bits of major, 20 of minor. */
const maximumMajor = 0xfff;
const maximumMinor = 0xf_ffff;
const noBytes = new Uint8Array(0);

/** Tells whether the entry is sparse, and in which of the four formats. Throws `unsupported` for one that is none of them. */
export function sparseFormatOf(header: TarHeader, extensions: Extensions, where: Where): SparseFormat | undefined {
  if (header.typeflag === typeflags.gnuSparse) {
    if (header.format !== "gnu") {
      throw new OcifsError("unsupported", `${where}: sparse entry in star's format; recreate the layer without it`);
    }
    return { kind: "old-gnu" };
  }
  const major = extensions.text("GNU.sparse.major");
  const minor = extensions.text("GNU.sparse.minor");
  if (major !== undefined) {
    if (major === "1" && minor === "0") return { kind: "pax-map" };
    throw new OcifsError(
      "unsupported",
      `${where}: GNU sparse format ${major}.${minor ?? "?"}; 0.0, 0.1 and 1.0 are known`,
    );
  }
  const map = extensions.text("GNU.sparse.map");
  if (map !== undefined) return { kind: "pax-list", pieces: piecesOfList(map.split(","), where) };
  const list = extensions.sparseList();
  if (list.length > 0) return { kind: "pax-list", pieces: piecesOfList(list, where) };
  // A file of nothing but a hole has no pieces to list in format 0.0.
  return extensions.text("GNU.sparse.size") === undefined ? undefined : { kind: "pax-list", pieces: [] };
}

/** Bytes that follow the entry's header blocks, before padding, if it is a file. */
export function dataBytesOf(header: TarHeader, extensions: Extensions, where: Where): number {
  const sizeBytes = extensions.integer("size", where) ?? header.sizeBytes;
  if (sizeBytes < 0) throw new OcifsError("corrupt", `${where}: size ${sizeBytes} is negative`);
  if (sizeBytes > limits.layerTarBytes) {
    throw new OcifsError(
      "limit",
      `${where}: size ${sizeBytes} is larger than a layer may be (${limits.layerTarBytes})`,
    );
  }
  return sizeBytes;
}

export interface EntryParts {
  readonly header: TarHeader;
  readonly headerOffset: number;
  readonly where: Where;
  /** Byte after the last block that was read for this entry. */
  readonly dataOffset: number;
  readonly extensions: Extensions;
  readonly sparse:
    | { readonly format: SparseFormat; readonly pieces: readonly SparsePiece[]; readonly mapBytes: number }
    | undefined;
}

/** Joins a header and its extensions into an entry, and says how many data bytes are to be passed over. */
export function assembleEntry(parts: EntryParts): { entry: TarEntry; dataBytes: number } {
  const { header, extensions, where } = parts;
  const rawPath = extensions.path() ?? header.name;
  const type = typeOf(header, rawPath, where);
  const isFile = type === "file";
  // Only files have data: a size in the header of anything else is left over from stat(2), as Go's and GNU's readers see it.
  const stored = isFile ? dataBytesOf(header, extensions, where) - (parts.sparse?.mapBytes ?? 0) : 0;
  const mtime = extensions.time("mtime", where);
  const entry: TarEntry = {
    type,
    path: normalizePath(rawPath, where),
    linkPath: linkPathOf(type, extensions.linkPath() ?? header.linkName, where),
    mode: header.mode,
    uid: idOf("uid", extensions.integer("uid", where) ?? header.uid, where),
    gid: idOf("gid", extensions.integer("gid", where) ?? header.gid, where),
    mtimeSeconds: mtime?.seconds ?? header.mtimeSeconds,
    mtimeNanoseconds: mtime?.nanoseconds ?? 0,
    sizeBytes: stored,
    deviceMajor: header.deviceMajor,
    deviceMinor: header.deviceMinor,
    xattrs: extensions.xattrs(where),
    headerOffset: parts.headerOffset,
    dataOffset: parts.dataOffset,
  };
  checkDevice(entry, where);
  if (entry.path.length === 0 && type !== "directory") {
    throw new OcifsError("corrupt", `${where}: the root of the layer is a ${type}, want a directory`);
  }
  if (parts.sparse === undefined) return { entry, dataBytes: stored };
  if (!isFile) throw new OcifsError("corrupt", `${where}: a ${type} with a sparse map`);
  const sizeBytes = realSizeOf(parts, where);
  const segments: readonly SparseSegment[] = placePieces(
    parts.sparse.pieces,
    sizeBytes,
    parts.dataOffset,
    stored,
    where,
  );
  return { entry: { ...entry, sizeBytes, segments }, dataBytes: stored };
}

function typeOf(header: TarHeader, rawPath: Uint8Array, where: Where): TarEntryType {
  const type = typeByFlag[header.typeflag];
  if (type === undefined) {
    const flag = JSON.stringify(String.fromCharCode(header.typeflag));
    throw new OcifsError("unsupported", `${where}: entry type ${flag} is unknown; recreate the layer without it`);
  }
  const isPlain = header.typeflag === typeflags.regular || header.typeflag === typeflags.regularV7;
  return isPlain && endsWithSlash(rawPath) ? "directory" : type;
}

function linkPathOf(type: TarEntryType, raw: Uint8Array, where: Where): Uint8Array {
  if (type === "symlink") return checkSymlinkTarget(raw, where);
  return type === "hardlink" ? normalizePath(raw, where) : noBytes;
}

function idOf(field: string, id: number, where: Where): number {
  if (id < 0 || id > maximumId) {
    throw new OcifsError("corrupt", `${where}: ${field} is ${id}, want 0 to ${maximumId}`);
  }
  return id;
}

function checkDevice(entry: TarEntry, where: Where): void {
  const { deviceMajor: major, deviceMinor: minor } = entry;
  if (major < 0 || major > maximumMajor || minor < 0 || minor > maximumMinor) {
    throw new OcifsError("corrupt", `${where}: device ${major}:${minor}, want at most ${maximumMajor}:${maximumMinor}`);
  }
}

function realSizeOf(parts: EntryParts, where: Where): number {
  const { header, extensions } = parts;
  const sizeBytes =
    header.sparseRealSizeBytes ??
    extensions.integer("GNU.sparse.realsize", where) ??
    extensions.integer("GNU.sparse.size", where);
  if (sizeBytes === undefined || sizeBytes < 0) {
    throw new OcifsError("corrupt", `${where}: sparse file without its real size`);
  }
  if (sizeBytes > limits.layerTarBytes) {
    throw new OcifsError("limit", `${where}: sparse file of ${sizeBytes} bytes, the limit is ${limits.layerTarBytes}`);
  }
  return sizeBytes;
}
