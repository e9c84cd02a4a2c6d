/**
 * The on-disk format of a tarindex: EROFS with 512-byte blocks, a device table, and one chunk a file that points into a
 * layer's uncompressed tar. Little-endian. Source: docs/FORMATS.md, Linux fs/erofs/erofs_fs.h.
 */
export const blockBits = 9;
export const blockBytes = 1 << blockBits;
export const superblockOffset = 1024;
export const superblockBytes = 128;
export const deviceSlotBytes = 128;
export const deviceTagBytes = 64;
export const superblockMagic = 0xe0f5e1e2;
/** Byte 1152, right after the superblock; counted in slots. */
export const deviceTableSlot = (superblockOffset + superblockBytes) / deviceSlotBytes;

export const compat = { superblockChecksum: 1, mtime: 2, xattrFilter: 4 } as const;
export const incompat = { deviceTable: 0x8, address48: 0x80 } as const;

export const layout = { plain: 0, inline: 2, chunk: 4 } as const;

export const chunk = {
  /** Format bits: entries are 8-byte indexes with a device id; block addresses have 48 bits. */
  indexes: 0x20,
  address48: 0x40,
  indexBytes: 8,
  /** The format has 5 bits for it. */
  maximumBits: blockBits + 31,
} as const;

export const xattrHeaderBytes = 12;
export const xattrEntryBytes = 4;
export const xattrFilterSeed = 0x25bbe08f;

/** The file type of stat(2)'s st_mode, and EROFS's number for it in directory entries. */
export const fileType = {
  fifo: { mode: 0o010000, dirent: 5 },
  char: { mode: 0o020000, dirent: 3 },
  directory: { mode: 0o040000, dirent: 2 },
  block: { mode: 0o060000, dirent: 4 },
  regular: { mode: 0o100000, dirent: 1 },
  symlink: { mode: 0o120000, dirent: 7 },
  socket: { mode: 0o140000, dirent: 6 },
} as const;
export const fileTypeMask = 0o170000;

/** Linux's 32-bit device number, as EROFS stores it. */
export function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}
