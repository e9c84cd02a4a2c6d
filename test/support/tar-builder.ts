/** Tars made by hand, header by header, so that tests can make what no tar program would. */

export type Bytes = Uint8Array | string;

export interface TarItem {
  readonly path: Bytes;
  /** Default: `file`. */
  readonly type?: "file" | "hardlink" | "symlink" | "char" | "block" | "directory" | "fifo";
  /** Overrides the typeflag that `type` gives. */
  readonly typeflag?: string;
  readonly format?: "ustar" | "gnu" | "v7";
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly data?: Bytes;
  /** Overrides the size in the header; the data stay what they are. */
  readonly headerSize?: number;
  readonly linkPath?: Bytes;
  readonly device?: readonly [major: number, minor: number];
  readonly prefix?: Bytes;
  readonly xattrs?: Readonly<Record<string, Bytes>>;
  /** Records of a PAX header put in front. */
  readonly pax?: Readonly<Record<string, Bytes>> | readonly (readonly [string, Bytes])[];
  /** Changes the finished header; its checksum is computed afterwards. */
  readonly patch?: (header: Buffer) => void;
  /** Changes the header after its checksum is set. */
  readonly patchAfterChecksum?: (header: Buffer) => void;
}

const typeflagByType = {
  file: "0",
  hardlink: "1",
  symlink: "2",
  char: "3",
  block: "4",
  directory: "5",
  fifo: "6",
} as const;

export const blockBytes = 512;
export const endMarker = Buffer.alloc(2 * blockBytes);

export function bytesOf(value: Bytes): Buffer {
  return typeof value === "string" ? Buffer.from(value) : Buffer.from(value.buffer, value.byteOffset, value.length);
}

/** Zeros up to the next multiple of 512. */
export function padding(sizeBytes: number): Buffer {
  return Buffer.alloc((blockBytes - (sizeBytes % blockBytes)) % blockBytes);
}

/** Octal if it fits, else base-256. */
export function writeNumber(header: Buffer, offset: number, length: number, value: number): void {
  const octal = value.toString(8);
  if (value >= 0 && octal.length < length) {
    header.write(`${octal.padStart(length - 1, "0")}\0`, offset, "latin1");
    return;
  }
  let rest = BigInt(value);
  for (let i = length - 1; i >= 0; i--) {
    header[offset + i] = Number(BigInt.asUintN(8, rest));
    rest >>= 8n;
  }
  header[offset] = (header[offset] ?? 0) | 0x80;
}

export function setChecksum(header: Buffer): void {
  header.write("        ", 148, "latin1");
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
}

/** One header block; names are cut to their fields. */
export function tarHeader(item: TarItem): Buffer {
  const header = Buffer.alloc(blockBytes);
  const type = item.type ?? "file";
  bytesOf(item.path).copy(header, 0, 0, 100);
  writeNumber(header, 100, 8, item.mode ?? (type === "directory" ? 0o755 : 0o644));
  writeNumber(header, 108, 8, item.uid ?? 0);
  writeNumber(header, 116, 8, item.gid ?? 0);
  writeNumber(header, 124, 12, item.headerSize ?? bytesOf(item.data ?? "").length);
  writeNumber(header, 136, 12, item.mtime ?? 0);
  header.write(item.typeflag ?? typeflagByType[type], 156, "latin1");
  bytesOf(item.linkPath ?? "").copy(header, 157, 0, 100);
  const format = item.format ?? "ustar";
  if (format !== "v7") {
    header.write(format === "gnu" ? "ustar  \0" : "ustar\x0000", 257, "latin1");
    writeNumber(header, 329, 8, item.device?.[0] ?? 0);
    writeNumber(header, 337, 8, item.device?.[1] ?? 0);
    bytesOf(item.prefix ?? "").copy(header, 345, 0, 155);
  }
  item.patch?.(header);
  setChecksum(header);
  item.patchAfterChecksum?.(header);
  return header;
}

/** One PAX record, its length counting itself. */
export function paxRecord(key: string, value: Bytes): Buffer {
  const body = Buffer.concat([Buffer.from(` ${key}=`, "latin1"), bytesOf(value), Buffer.from("\n")]);
  let length = body.length;
  while (length !== body.length + String(length).length) length = body.length + String(length).length;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

/** An extended header (`x`, `g`, `L`, `K`, …) with its payload, padded. */
export function extendedHeader(typeflag: string, payload: Bytes, name: Bytes = "././@LongLink"): Buffer {
  const data = bytesOf(payload);
  return Buffer.concat([tarHeader({ path: name, typeflag, data }), data, padding(data.length)]);
}

export function paxHeader(records: readonly (readonly [string, Bytes])[], typeflag = "x"): Buffer {
  return extendedHeader(typeflag, Buffer.concat(records.map(([key, value]) => paxRecord(key, value))), "PaxHeaders/x");
}

/** An item's blocks: PAX header if needed (also for long names), header, data, padding. */
export function tarItem(item: TarItem): Buffer {
  const data = bytesOf(item.data ?? "");
  const records: (readonly [string, Bytes])[] = Array.isArray(item.pax)
    ? [...item.pax]
    : Object.entries(item.pax ?? {});
  if (item.prefix === undefined && bytesOf(item.path).length > 100) records.push(["path", item.path]);
  if (item.linkPath !== undefined && bytesOf(item.linkPath).length > 100) records.push(["linkpath", item.linkPath]);
  for (const [name, value] of Object.entries(item.xattrs ?? {})) records.push([`SCHILY.xattr.${name}`, value]);
  return Buffer.concat([
    records.length > 0 ? paxHeader(records) : Buffer.alloc(0),
    tarHeader(item),
    data,
    padding(data.length),
  ]);
}

/** A tar of these items; raw blocks are taken as they are. Ends with the two zero blocks unless told otherwise. */
export function buildTar(items: readonly (TarItem | Buffer)[], options: { readonly end?: boolean } = {}): Buffer {
  const parts = items.map((item) => (Buffer.isBuffer(item) ? item : tarItem(item)));
  return Buffer.concat(options.end === false ? parts : [...parts, endMarker]);
}
