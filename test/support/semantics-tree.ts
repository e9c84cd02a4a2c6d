import { buildTar, type TarItem } from "./tar-builder.js";

export const mtime = 1_234_567_890;
export const spanBytes = 64 << 10;
/** Longer than the kernel's readahead and than eight of its largest FUSE requests. */
export const bigBytes = 12 << 20;

/** Bytes that neither compress nor repeat. */
export function noise(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0, x = seed; i < length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

/** POSIX ACL in its xattr form: owner rw, user 1000 r, group none, mask r, others none. */
export const accessAcl = Buffer.from(
  "0200000001000600ffffffff02000400e803000004000000ffffffff10000400ffffffff20000000ffffffff",
  "hex",
);
/** File capabilities, version 2: cap_net_raw, effective and permitted; byte 0x80 shows what a UTF-8 round trip would do. */
export const capability = Buffer.from("0100000200200000000000800000000000000000", "hex");
export const big = noise(bigBytes, 1);
export const longName = "n".repeat(255);
export const oddName = Buffer.from([0xff, 0xfe, 0x0a, 0x20, 0x80]);
export const manyCount = 3000;

/** One of everything that a layer can hold. */
const items: readonly TarItem[] = [
  { path: "./", type: "directory", mode: 0o755, mtime },
  { path: "file", data: "hello\n", mode: 0o640, uid: 1001, gid: 1002, mtime },
  { path: "hard", type: "hardlink", linkPath: "file" },
  { path: "empty", data: "", mtime },
  { path: "big", data: big, mtime },
  { path: "dir/", type: "directory", mode: 0o750, uid: 5, gid: 6, mtime },
  { path: "dir/sub/", type: "directory", mtime },
  { path: "dir/sub/leaf", data: noise(5000, 2), mtime },
  { path: "link", type: "symlink", linkPath: "dir/sub/leaf", mode: 0o777, mtime },
  { path: "dangling", type: "symlink", linkPath: "/nowhere", mtime },
  { path: "loop", type: "symlink", linkPath: "loop", mtime },
  { path: "longlink", type: "symlink", linkPath: `${"t/".repeat(2047)}t`, mtime },
  { path: "null", type: "char", device: [1, 3], mode: 0o666, mtime },
  { path: "wide", type: "char", device: [300, 70_000], mode: 0o600, mtime },
  { path: "disk", type: "block", device: [7, 200], mode: 0o660, mtime },
  { path: "fifo", type: "fifo", mode: 0o666, mtime },
  { path: longName, data: "long", mtime },
  { path: oddName, data: "odd", mtime },
  { path: "secret", data: "secret", mode: 0o600, mtime },
  { path: "acl", data: "acl", mode: 0o640, mtime, xattrs: { "system.posix_acl_access": accessAcl } },
  { path: "private/", type: "directory", mode: 0o700, mtime },
  { path: "private/inner", data: "inner", mode: 0o644, mtime },
  { path: "script", data: "#!/bin/sh\necho ran $(id -u)\n", mode: 0o755, mtime },
  { path: "suid", data: "#!/bin/sh\n", mode: 0o4755, mtime },
  {
    path: "attrs",
    data: "x",
    mtime,
    xattrs: {
      "user.one": "two",
      "user.empty": "",
      "user.big": noise(1500, 3),
      "trusted.overlay.opaque": "y",
      "security.capability": capability,
    },
  },
  { path: "old", data: "", mtime: -1000 },
  { path: "precise", data: "", pax: { mtime: "1234567890.987654321" } },
  { path: "many/", type: "directory", mtime },
  ...Array.from({ length: manyCount }, (_, i) => ({ path: `many/entry-${i}-${"m".repeat(i % 60)}`, data: "", mtime })),
];

let tar: Buffer | undefined;

/** One of everything, always the same object. */
export function semanticsTar(): Buffer {
  tar ??= buildTar(items);
  return tar;
}
