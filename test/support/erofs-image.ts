/**
 * Makes EROFS images by hand, byte by byte from the format, independent of the code under test: 48-bit layout, compact
 * inodes, 512-byte blocks, one device behind the index in the flat address space.
 */
export interface ImageNode {
  readonly mode: number;
  readonly mtimeDelta?: number;
  readonly uid?: number;
  readonly rdev?: number;
  /** A directory. */
  readonly children?: Record<string, ImageNode>;
  /** A symbolic link; with the mode of a file, a file with inline data. */
  readonly target?: string;
  /** A file: device block of each 512-byte chunk, null = hole. */
  readonly chunks?: readonly (number | null)[];
  /** A PLAIN file: its first block, counted from the start of the device, reached through the flat address space. */
  readonly deviceBlock?: number;
  readonly sizeBytes?: number;
  /** Short name index or 0x80 | prefix number, suffix, value. */
  readonly xattrs?: readonly (readonly [number, string, string])[];
}

export interface ImageOptions {
  readonly dotOmitted?: boolean;
  /** Long xattr name prefixes: base index, infix. */
  readonly prefixes?: readonly (readonly [number, string])[];
  readonly deviceBlocks: number;
}

export const imageEpoch = 1_700_000_000;
const block = 512;
const metaStart = 2048;
const prefixStart = 1280;

export function dir(children: Record<string, ImageNode>): ImageNode {
  return { mode: 0o040755, children };
}
export function link(target: string): ImageNode {
  return { mode: 0o120777, target };
}
export function emptyFile(): ImageNode {
  return { mode: 0o100644, chunks: [], sizeBytes: 0 };
}

interface Placed {
  readonly node: ImageNode;
  readonly parent: Placed | undefined;
  readonly children: readonly (readonly [string, Placed])[];
  readonly xattrs: Buffer;
  /** Full blocks first, then the inline tail. Filled for directories once all nids are known. */
  body: Buffer;
  position: number;
  dataBlock: number;
}

function align(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function xattrArea(entries: ImageNode["xattrs"]): Buffer {
  if (entries === undefined || entries.length === 0) return Buffer.alloc(0);
  const parts = [Buffer.alloc(12)];
  for (const [index, suffix, value] of entries) {
    const entry = Buffer.alloc(align(4 + suffix.length + value.length, 4));
    entry.writeUInt8(suffix.length, 0);
    entry.writeUInt8(index, 1);
    entry.writeUInt16LE(value.length, 2);
    entry.write(suffix + value, 4, "latin1");
    parts.push(entry);
  }
  return Buffer.concat(parts);
}

function typeOf(mode: number): number {
  return ({ 4: 2, 8: 1, 2: 3, 6: 4, 1: 5, 12: 6, 10: 7 } as Record<number, number>)[mode >> 12] ?? 0;
}

function dirBody(entries: readonly (readonly [string, number, number])[]): Buffer {
  const sorted = [...entries].sort(([a], [b]) => Buffer.compare(Buffer.from(a, "latin1"), Buffer.from(b, "latin1")));
  const blocks: Buffer[] = [];
  for (let next = 0; next < sorted.length; ) {
    const here: (readonly [string, number, number])[] = [];
    let used = 0;
    for (let entry = sorted[next]; entry !== undefined; entry = sorted[next]) {
      if (used + 12 + entry[0].length > block) break;
      used += 12 + entry[0].length;
      here.push(entry);
      next++;
    }
    const bytes = Buffer.alloc(next < sorted.length ? block : used);
    let nameAt = here.length * 12;
    for (const [i, [name, nid, type]] of here.entries()) {
      bytes.writeBigUInt64LE(BigInt(nid), i * 12);
      bytes.writeUInt16LE(nameAt, i * 12 + 8);
      bytes.writeUInt8(type, i * 12 + 10);
      nameAt += bytes.write(name, nameAt, "latin1");
    }
    blocks.push(bytes);
  }
  return Buffer.concat(blocks);
}

/** The image; append `deviceBlocks` blocks of content for the flat form. Names are Latin-1. */
export function buildErofsImage(root: ImageNode, options: ImageOptions): Buffer {
  const placed: Placed[] = [];
  const place = (node: ImageNode, parent: Placed | undefined): Placed => {
    const children: [string, Placed][] = [];
    const made: Placed = {
      node,
      parent,
      children,
      xattrs: xattrArea(node.xattrs),
      body: Buffer.from(node.target ?? "", "latin1"),
      position: metaStart,
      dataBlock: 0,
    };
    placed.push(made);
    for (const [name, child] of Object.entries(node.children ?? {})) children.push([name, place(child, made)]);
    return made;
  };
  const top = place(root, undefined);
  const nidOf = (p: Placed): number => (p.position - metaStart) / 32;
  const fillDirectory = (p: Placed): void => {
    const entries: (readonly [string, number, number])[] = p.children.map(([n, c]) => [
      n,
      nidOf(c),
      typeOf(c.node.mode),
    ]);
    if (options.dotOmitted !== true) entries.push([".", nidOf(p), 2]);
    entries.push(["..", nidOf(p.parent ?? p), 2]);
    p.body = dirBody(entries);
  };

  let at = metaStart + 32; // nid 0 stays unused: a root nid of 0 would select the 16-bit field
  for (const p of placed) {
    if (p.node.children !== undefined) fillDirectory(p); // the size does not depend on the nids
    const tail = p.node.chunks === undefined ? p.body.length % block : p.node.chunks.length * 8 + 8;
    if ((at % block) + 32 + p.xattrs.length + tail > block) at = align(at, block);
    p.position = at;
    at = align(at + 32 + p.xattrs.length + tail, 32);
  }
  let nextBlock = Math.ceil(at / block);
  for (const p of placed) {
    if (p.node.children !== undefined) fillDirectory(p);
    p.dataBlock = nextBlock;
    nextBlock += Math.floor(p.body.length / block);
  }

  const image = Buffer.alloc(nextBlock * block);
  for (const p of placed) writeInode(image, p, options);
  writeSuper(image, nidOf(top), placed.length, options);
  return image;
}

function writeInode(image: Buffer, p: Placed, options: ImageOptions): void {
  const { node, position } = p;
  const isDir = node.children !== undefined;
  const layout = node.chunks !== undefined ? 4 : p.body.length % block > 0 ? 2 : 0;
  const bit4 = isDir ? options.dotOmitted === true : true; // NLINK_1 of everything else
  image.writeUInt16LE((layout << 1) | (bit4 ? 0x10 : 0), position);
  image.writeUInt16LE(p.xattrs.length === 0 ? 0 : (p.xattrs.length - 12) / 4 + 1, position + 2);
  image.writeUInt16LE(node.mode, position + 4);
  image.writeUInt16LE(isDir ? 2 : 0, position + 6);
  image.writeUInt32LE(node.sizeBytes ?? p.body.length, position + 8);
  image.writeUInt32LE(node.mtimeDelta ?? 0, position + 12);
  const firstBlock = node.deviceBlock === undefined ? p.dataBlock : image.length / block + node.deviceBlock;
  image.writeUInt32LE(node.rdev ?? (layout === 4 ? 0x60 : firstBlock), position + 16);
  image.writeUInt16LE(node.uid ?? 0, position + 24);
  p.xattrs.copy(image, position + 32);
  const end = position + 32 + p.xattrs.length;
  for (const [i, deviceBlock] of (node.chunks ?? []).entries()) {
    const entry = align(end, 8) + i * 8;
    if (deviceBlock === null) image.fill(0xff, entry, entry + 8);
    else {
      image.writeUInt16LE(0x8001, entry + 2); // of one device only the lowest bit counts
      image.writeUInt32LE(deviceBlock, entry + 4);
    }
  }
  const full = p.body.length - (p.body.length % block);
  p.body.copy(image, p.dataBlock * block, 0, full);
  p.body.copy(image, end, full);
}

function writeSuper(image: Buffer, rootNid: number, inodes: number, options: ImageOptions): void {
  const sb = image.subarray(1024);
  sb.writeUInt32LE(0xe0f5e1e2, 0);
  sb.writeUInt32LE(0x12, 8); // MTIME, PLAIN_XATTR_PFX
  sb.writeUInt8(9, 12);
  sb.writeBigUInt64LE(BigInt(inodes), 16);
  sb.writeBigUInt64LE(BigInt(imageEpoch), 24);
  sb.writeUInt32LE(image.length / block, 36);
  sb.writeUInt32LE(metaStart / block, 40);
  const prefixes = options.prefixes ?? [];
  sb.writeUInt32LE(0x8c | (prefixes.length > 0 ? 0x40 : 0), 80); // CHUNKED_FILE, DEVICE_TABLE, 48BIT
  sb.writeUInt16LE(1, 86);
  sb.writeUInt16LE(9, 88);
  sb.writeUInt8(prefixes.length, 91);
  sb.writeUInt32LE(prefixStart / 4, 92);
  sb.writeBigUInt64LE(BigInt(rootNid), 112);
  image.writeUInt32LE(options.deviceBlocks, 1152 + 64);
  image.writeUInt32LE(image.length / block, 1152 + 68);
  let at = prefixStart;
  for (const [base, infix] of prefixes) {
    image.writeUInt16LE(infix.length + 1, at);
    image.writeUInt8(base, at + 2);
    image.write(infix, at + 3, "latin1");
    at = align(at + 3 + infix.length, 4);
  }
}
