import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isOcifsError } from "../../src/base/errors.js";
import { crc32cOfSuperblock } from "../../src/erofs/crc32c.js";
import { chunkBitsOfExtents, chunkBitsOfWhole } from "../../src/erofs/extents.js";
import { encodeDevice } from "../../src/erofs/format.js";
import { noXattrs } from "../../src/erofs/inode-table.js";
import { XattrSets } from "../../src/erofs/xattr.js";
import { xxh32 } from "../../src/erofs/xxh32.js";

const text = (value: string) => Buffer.from(value, "latin1");

describe("xxh32", () => {
  it("agrees with the values its specification's tools print", () => {
    assert.equal(xxh32(text(""), 0), 0x02cc5d05);
    assert.equal(xxh32(text("a"), 0), 0x550d7456);
    assert.equal(xxh32(text("abc"), 0), 0x32d153ff);
    assert.equal(xxh32(text("Nobody inspects the spammish repetition"), 0), 0xe2293b2f);
  });
});

describe("crc32c", () => {
  it("is the usual one without its last inversion", () => {
    assert.equal(crc32cOfSuperblock(text("123456789")), ~0xe3069283 >>> 0);
  });
});

describe("xattr sets", () => {
  const filterOf = (name: string) => {
    const sets = new XattrSets();
    const area = Buffer.from(sets.area(sets.intern([{ name: text(name), value: text("") }], "test")));
    return area.readUInt32LE(0);
  };

  it("have the name filters other writers compute", () => {
    assert.equal(filterOf("user.foo"), 0xffffefff);
    assert.equal(filterOf("trusted.overlay.opaque"), 0xffefffff);
    assert.equal(filterOf("trusted.overlay.origin"), 0xfffbffff);
    assert.equal(filterOf("security.capability"), 0xdfffffff);
  });

  it("are sorted by full name, padded, and kept once", () => {
    const sets = new XattrSets();
    const list = [
      { name: text("user.b"), value: text("22") },
      { name: text("system.posix_acl_access"), value: text("acl") },
      { name: text("com.example"), value: text("x") },
      { name: text("security.c"), value: Buffer.from([0, 255]) },
    ];
    const id = sets.intern(list, "test");
    assert.equal(sets.intern(list.toReversed(), "test"), id);
    assert.equal(sets.intern([], "test"), noXattrs);
    const entries = [
      "0b000100 636f6d2e6578616d706c65 78",
      "01060200 63 00ff 00",
      "00020300 61636c 00",
      "01010200 62 3232 00",
    ];
    assert.equal(Buffer.from(sets.area(id)).toString("hex").slice(24), entries.join("").replaceAll(" ", ""));
    assert.deepEqual(
      sets.list(id).map((x) => [Buffer.from(x.name).toString(), Buffer.from(x.value).toString("latin1")]),
      [
        ["com.example", "x"],
        ["security.c", "\0\xff"],
        ["system.posix_acl_access", "acl"],
        ["user.b", "22"],
      ],
    );
  });

  it("are refused beyond what an inode can hold", () => {
    const many = Array.from({ length: 5 }, (_, i) => ({ name: text(`user.${i}`), value: Buffer.alloc(60000) }));
    assert.throws(
      () => new XattrSets().intern(many, "tar entry"),
      (error) => isOcifsError(error, "limit") && /EROFS stores 262140/.test(error.message),
    );
  });
});

describe("chunks", () => {
  it("hold a whole file up to 1 TiB", () => {
    assert.deepEqual([1, 512, 513, 5 << 20, 2 ** 40, 2 ** 40 + 1].map(chunkBitsOfWhole), [9, 9, 10, 23, 40, 40]);
  });

  it("are as large as the holes allow", () => {
    const extent = (offset: number, sizeBytes: number) => ({ offset, sizeBytes, deviceOffset: 512 });
    assert.equal(chunkBitsOfExtents(1 << 20, []), 20);
    assert.equal(chunkBitsOfExtents(1 << 20, [extent(4096, 8192)]), 12);
    assert.equal(chunkBitsOfExtents(5000, [extent(0, 512), extent(4608, 392)]), 9);
    assert.equal(chunkBitsOfExtents(5000, [extent(100, 512)]), undefined);
    assert.equal(chunkBitsOfExtents(5000, [extent(0, 100)]), undefined);
    assert.equal(chunkBitsOfExtents(5000, [{ ...extent(0, 512), deviceOffset: 1 }]), undefined);
    assert.equal(chunkBitsOfExtents(2 ** 40, [extent(512, 512)]), undefined);
  });
});

describe("device numbers", () => {
  it("are Linux's 32-bit ones", () => {
    assert.equal(encodeDevice(1, 3), 0x103);
    assert.equal(encodeDevice(300, 70000), 0x11112c70);
    assert.equal(encodeDevice(0xfff, 0xfffff), 0xffffffff);
  });
});
