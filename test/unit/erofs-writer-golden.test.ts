import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { crc32cOfSuperblock } from "../../src/erofs/crc32c.js";
import { rootEntry } from "../../src/erofs/file-tree.js";
import { noXattrs } from "../../src/erofs/inode-table.js";
import { writeTarindex } from "../../src/erofs/tarindex-writer.js";
import { TarTree } from "../../src/index/tar-tree.js";
import { TarWalker } from "../../src/tar/walker.js";
import { tarindexOfTar, treeOfTar, zeroUuid } from "../support/layers.js";
import { buildTar, type TarItem } from "../support/tar-builder.js";

const mtime = 1700000000;
const items: TarItem[] = [
  { path: "./", type: "directory", mode: 0o755, mtime },
  { path: "hello", data: "hello\n", mtime },
  { path: "link", type: "symlink", linkPath: "hello", mode: 0o777, mtime },
  {
    path: "null",
    type: "char",
    device: [1, 3],
    mode: 0o666,
    uid: 70000,
    mtime: mtime + 1,
    xattrs: { "user.foo": "bar" },
  },
];

/** Every 16 bytes that are not all zero. Multi-byte numbers are little-endian. */
const golden = `
0400 e2e1f5e0 f88abeb1 07000000 09002800   magic, CRC, compat checksum|mtime|xattr filter, 512-byte blocks, root nid 40
0410 04000000 00000000 00f15365 00000000   4 inodes, epoch 1700000000
0420 00000000 08000000 00000000 00000000   8 blocks
0450 08000000 00000100 09000000 00000000   incompat device table, 1 device, its slot at 9 * 128
04c0 09000000 08000000 00000000 00000000   device: 9 blocks, from block 8 of the flat address space
0500 04000000 ed410200 4c000000 00000000   root: compact, inline; 040755, 2 links, 76 bytes
0510 ffffffff 01000000 00000000 00000000   no block, ino 1, root:root
0520 28000000 00000000 3c000200 28000000   "." nid 40, name at 60, directory; ".." nid 40
0530 00000000 3d000200 2c000000 00000000   "hello" nid 44
0540 3f000100 2e000000 00000000 44000700   regular; "link" nid 46, symlink
0550 30000000 00000000 48000300 2e2e2e68   "null" nid 48, char; names
0560 656c6c6f 6c696e6b 6e756c6c 00000000
0580 08000000 a4810100 06000000 00000000   hello: compact, chunks; 0100644, 1 link, 6 bytes
0590 20000000 02000000 00000000 00000000   8-byte indexes, chunks of 512 bytes
05a0 00000100 02000000 00000000 00000000   device 1, block 2
05c0 04000000 ffa10100 05000000 00000000   link: compact, inline; 5 bytes
05d0 ffffffff 03000000 00000000 00000000
05e0 68656c6c 6f000000 00000000 00000000   its target
0600 01000400 b6210000 00000000 00000000   null: extended (uid and mtime), 4 xattr units; 020666
0610 03010000 04000000 70110100 00000000   1:3, ino 4, uid 70000
0620 01f15365 00000000 00000000 01000000   mtime 1700000001, 1 link
0640 ffefffff 00000000 00000000 03010300   name filter; "foo" under user., 3 bytes
0650 666f6f62 61720000 00000000 00000000
`;

function dump(bytes: Buffer): string[] {
  const rows: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    if (row.every((byte) => byte === 0)) continue;
    rows.push(`${at.toString(16).padStart(4, "0")} ${row.toString("hex").replace(/(.{8})(?=.)/g, "$1 ")}`);
  }
  return rows;
}

describe("tarindex bytes", () => {
  it("are the golden ones", () => {
    const index = tarindexOfTar(buildTar(items));
    assert.equal(index.length, 4096);
    const rows = golden.trim().split("\n");
    assert.deepEqual(
      dump(index),
      rows.map((row) => row.slice(0, 40)),
    );
  });

  it("do not depend on the order of entries or on the pieces the tar came in", () => {
    const many = Array.from(
      { length: 3000 },
      (_, i): TarItem => ({ path: `d${i % 7}/e${i % 31}/${i}`, type: "fifo", mtime: i % 5 }),
    );
    const forward = tarindexOfTar(buildTar(many));
    assert.deepEqual(tarindexOfTar(buildTar(many)), forward);
    // Missing directories take time and owner from their parent, so the order of the rest does not show.
    assert.deepEqual(tarindexOfTar(buildTar(many.toReversed())), forward);
    const layer = new TarTree({ whiteouts: "keep" });
    const walker = new TarWalker((entry) => layer.add(entry));
    const tar = buildTar(many);
    for (let at = 0; at < tar.length; at += 777) walker.push(tar.subarray(at, at + 777));
    const blocks = walker.finish().endOffset / 512;
    const pieces = [...writeTarindex(layer.finish().tree, { devices: [{ tag: "", blocks }], uuid: zeroUuid })];
    assert.deepEqual(Buffer.concat(pieces), forward);
  });

  it("hold a superblock whose checksum is right, for any number of devices", () => {
    for (const count of [1, 2, 3, 4, 100]) {
      const { tree } = treeOfTar(buildTar(items));
      const devices = Array.from({ length: count }, (_, i) => ({
        tag: i.toString(16).padStart(64, "0"),
        blocks: 100 + i,
      }));
      const index = Buffer.concat([...writeTarindex(tree, { devices, uuid: zeroUuid })]);
      const stored = index.readUInt32LE(1028);
      const block = Buffer.from(index.subarray(1024, 1536));
      block.writeUInt32LE(0, 4);
      assert.equal(crc32cOfSuperblock(block), stored);
      assert.equal(index.readUInt16LE(1024 + 86), count);
      let next = index.length / 512;
      for (let i = 0; i < count; i++) {
        const slot = 1152 + i * 128;
        assert.equal(index.toString("latin1", slot, slot + 64), i.toString(16).padStart(64, "0"));
        assert.equal(index.readUInt32LE(slot + 64), 100 + i);
        assert.equal(index.readUInt32LE(slot + 68), next);
        next += 100 + i;
      }
      assert.equal(index.readUInt16LE(1024 + 14), (1152 + 128 * count) / 32);
    }
  });

  it("mark addresses of more than 32 bits, and only those", () => {
    const indexOf = (deviceOffset: number, blocks: number) => {
      const { tree } = treeOfTar(buildTar([]));
      const metadata = { permissions: 0o644, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanoseconds: 0, xattrs: noXattrs };
      const content = {
        kind: "file",
        sizeBytes: 1,
        device: 1,
        extents: [{ offset: 0, sizeBytes: 1, deviceOffset }],
      } as const;
      tree.link(tree.place(rootEntry, Buffer.from("f")), tree.inodes.add(metadata, content));
      const index = Buffer.concat([...writeTarindex(tree, { devices: [{ tag: "", blocks }], uuid: zeroUuid })]);
      const inode = index.readUInt16LE(1024 + 14) * 32 + 96;
      return {
        incompat: index.readUInt32LE(1024 + 80),
        format: index.readUInt16LE(inode + 16),
        index: index.toString("hex", inode + 32, inode + 40),
        blocksHigh: index.readUInt16LE(1152 + 72),
      };
    };
    assert.deepEqual(indexOf(2 ** 31 * 512, 2 ** 31 + 1), {
      incompat: 0x08,
      format: 0x20,
      index: "0000010000000080",
      blocksHigh: 0,
    });
    assert.deepEqual(indexOf((2 ** 32 + 1) * 512, 2 ** 32 + 2), {
      incompat: 0x88,
      format: 0x60,
      index: "0100010001000000",
      blocksHigh: 1,
    });
    // The highest 32-bit address means a hole.
    assert.equal(indexOf(0xffffffff * 512, 2 ** 32).format, 0x60);
  });
});
