import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { isOcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { buildErofsImage, dir, emptyFile, type ImageNode, link } from "../support/erofs-image.js";
import { MemoryDevice } from "../support/memory-device.js";

const superAt = 1024;
const slotAt = 1152;
/** buildErofsImage places the root as nid 1 and its only child right behind it, on a multiple of 32. */
const rootAt = 2048 + 32;

describe("a hostile image is refused by name", () => {
  let scratch: string;
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "ocifs-hostile-"));
  });
  after(() => rm(scratch, { recursive: true }));

  /** Opens the image of a root with one child `x` after `change`, which is given the child's position. */
  async function withImage(
    child: ImageNode,
    change: (image: Buffer, childAt: number) => void,
    use: (tree: ErofsTree, nid: number) => unknown,
  ): Promise<void> {
    const image = buildErofsImage(dir({ x: child }), { deviceBlocks: 4, prefixes: [[1, "infix."]] });
    const childAt = 2048 + Number(image.readBigUInt64LE(rootAt + 32 + 24)) * 32;
    change(image, childAt);
    const path = join(scratch, "image");
    await writeFile(path, image);
    await using tree = await ErofsTree.open(path);
    await use(tree, (childAt - 2048) / 32);
  }

  const refused = (code: OcifsErrorCode, text: RegExp) => (e: unknown) => isOcifsError(e, code) && text.test(e.message);
  const file: ImageNode = { mode: 0o100644, chunks: [0, 1, null], sizeBytes: 1500 };
  const map = (tree: ErofsTree, nid: number) => tree.image.mapRange(nid, 0, 1500);

  it("in the superblock", async () => {
    const cases: [string, (b: Buffer) => void, OcifsErrorCode, RegExp][] = [
      ["block size", (b) => b.writeUInt8(8, superAt + 12), "corrupt", /block size/],
      ["block size", (b) => b.writeUInt8(17, superAt + 12), "corrupt", /block size/],
      ["blocks", (b) => b.writeUInt32LE(0xffffff, superAt + 36), "corrupt", /truncated/],
      ["directory blocks", (b) => b.writeUInt8(1, superAt + 90), "unsupported", /directory blocks/],
      ["extension slots", (b) => b.writeUInt8(255, superAt + 13), "corrupt", /extension slots/],
      ["root", (b) => b.writeBigUInt64LE(1n << 40n, superAt + 112), "corrupt", /outside the image/],
      ["metabox", (b) => b.writeUInt32LE(0x18c, superAt + 80), "unsupported", /METABOX/],
      ["shared xattrs", (b) => b.writeUInt32LE(0x1a, superAt + 8), "unsupported", /metabox/],
      ["devices", (b) => b.writeUInt16LE(0xffff, superAt + 86), "corrupt", /devices/],
      ["device table", (b) => b.writeUInt16LE(0xffff, superAt + 88), "corrupt", /devices/],
      ["prefixes", (b) => b.writeUInt32LE(0xfffffff0, superAt + 92), "corrupt", /prefixes/],
      ["prefix count", (b) => b.writeUInt8(255, superAt + 91), "corrupt", /prefixes/],
      ["root is no directory", (b) => b.writeUInt16LE(0o100644, rootAt + 4), "corrupt", /no directory/],
    ];
    for (const [name, change, code, text] of cases) {
      await assert.rejects(
        withImage(emptyFile(), change, () => undefined),
        refused(code, text),
        name,
      );
    }
    const overlap = (b: Buffer) => {
      b.writeUInt16LE(2, superAt + 86);
      b.copy(b, slotAt + 128, slotAt, slotAt + 128);
    };
    const image = buildErofsImage(dir({ x: file }), { deviceBlocks: 4 });
    overlap(image);
    await writeFile(join(scratch, "overlap"), image);
    await assert.rejects(ErofsTree.open(join(scratch, "overlap")), refused("corrupt", /overlap/));
  });

  it("in an inode", async () => {
    const cases: [string, (b: Buffer, at: number) => void, OcifsErrorCode, RegExp][] = [
      ["format", (b, at) => b.writeUInt16LE(0x28, at), "unsupported", /format/],
      ["layout", (b, at) => b.writeUInt16LE(5 << 1, at), "unsupported", /layout 5/],
      ["mode", (b, at) => b.writeUInt16LE(0o150000, at + 4), "corrupt", /file type/],
      ["chunk format", (b, at) => b.writeUInt32LE(0x80, at + 16), "unsupported", /chunk format/],
      ["xattrs", (b, at) => b.writeUInt16LE(0xffff, at + 2), "corrupt", /xattrs/],
    ];
    for (const [name, change, code, text] of cases) {
      await withImage(file, change, (tree, nid) => {
        assert.throws(() => tree.stat(nid), refused(code, text), name);
      });
    }
  });

  it("in the addresses of content", async () => {
    const cases: [string, (b: Buffer, at: number) => void, RegExp][] = [
      ["block past the device", (b, at) => b.writeUInt32LE(4, at + 36), /past its end/],
      ["block far past the device", (b, at) => b.writeUInt16LE(0xffff, at + 32), /past its end/],
      ["last bytes past the device", (b) => b.writeUInt32LE(1, slotAt + 64), /past its end/],
      [
        "primary block past the file",
        (b, at) => {
          b.writeUInt16LE(0, at + 34);
          b.writeUInt32LE(0x7fffffff, at + 36);
        },
        /of the image lies past its end/,
      ],
      ["no chunk table", (b, at) => b.writeUInt32LE(0x7fffffff, at + 8), /no entry|past its end/],
    ];
    for (const [name, change, text] of cases) {
      await withImage(file, change, (tree, nid) => {
        assert.throws(() => tree.image.mapRange(nid, 0, 2 ** 31), refused("corrupt", text), name);
      });
    }
    const twoDevices = (b: Buffer, at: number) => {
      b.writeUInt16LE(2, superAt + 86);
      b.writeUInt8(0, superAt + 91); // the prefix table lies where the second slot is now
      b.fill(0, slotAt + 128, slotAt + 256);
      b.writeUInt16LE(3, at + 34);
    };
    await withImage(file, twoDevices, (tree, nid) => {
      assert.throws(() => map(tree, nid), refused("corrupt", /device 3/));
    });
  });

  it("in links, directories and xattrs", async () => {
    await withImage(
      link("target"),
      (b, at) => b.writeUInt8(0, at + 34),
      (tree, nid) => assert.throws(() => tree.readlink(nid), refused("corrupt", /NUL/)),
    );
    await withImage(
      link("target"),
      (b, at) => b.writeUInt32LE(4096, at + 8),
      (tree, nid) => assert.throws(() => tree.readlink(nid), refused("corrupt", /4096 bytes/)),
    );
    for (const [name, offset, value] of [
      ["table is no whole number of entries", 8, 13],
      ["names begin past the block", 8, 0xfff0],
      ["first name is empty", 20, 24],
      ["second name begins past the end", 20, 400],
    ] as const) {
      await withImage(
        dir({}),
        (b, at) => b.writeUInt16LE(value, at + 32 + offset),
        (tree, nid) => assert.throws(() => [...tree.entries(nid)], refused("corrupt", /directory block 0/), name),
      );
    }
    for (const byte of [0x2f, 0]) {
      await withImage(
        emptyFile(),
        (b) => b.writeUInt8(byte, rootAt + 32 + 36 + 3), // "x", after ".", ".."
        (tree) => assert.throws(() => [...tree.entries(1)], refused("corrupt", /directory block 0/)),
      );
    }
    const tagged: ImageNode = { ...emptyFile(), xattrs: [[0x80, "key", "value"]] };
    for (const [name, offset, value] of [
      ["unknown prefix", 12 + 1, 0x81],
      ["unknown namespace", 12 + 1, 9],
      ["name past the area", 12, 200],
      ["more shared ids than room", 4, 200],
      ["NUL in the name", 12 + 4, 0],
    ] as const) {
      await withImage(
        tagged,
        (b, at) => b.writeUInt8(value, at + 32 + offset),
        (tree, nid) => assert.throws(() => tree.image.listxattr(nid), refused("corrupt", /xattrs/), name),
      );
    }
  });

  it("while a file of very many chunks is read in several calls", async () => {
    const chunks = Array.from({ length: 70_000 }, (_, i) => (i % 2 === 0 ? i % 4 : null));
    const many: ImageNode = { mode: 0o100644, chunks, sizeBytes: chunks.length * 512 };
    const device = Buffer.alloc(2048, "0123");
    await withImage(
      many,
      () => undefined,
      async (tree, nid) => {
        const extents = tree.image.mapRange(nid, 0, many.sizeBytes ?? 0);
        assert.equal(extents.length, 65_536);
        const got = await tree.read(nid, 0, chunks.length * 512, [new MemoryDevice(device)]);
        const want = Buffer.concat(
          chunks.map((c) => (c === null ? Buffer.alloc(512) : device.subarray(c * 512, c * 512 + 512))),
        );
        assert.equal(want.equals(got), true);
      },
    );
  });
});
