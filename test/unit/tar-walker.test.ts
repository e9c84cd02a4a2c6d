import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { isOcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import { plainEntry, readTar } from "../support/read-tar.js";
import {
  buildTar,
  endMarker,
  extendedHeader,
  paxHeader,
  type TarItem,
  tarHeader,
  tarItem,
} from "../support/tar-builder.js";

function only(items: readonly (TarItem | Buffer)[]): Record<string, unknown> {
  const { entries } = readTar(buildTar(items));
  assert.equal(entries.length, 1);
  const [entry] = entries;
  assert.ok(entry);
  return plainEntry(entry);
}

function assertEntry(actual: Record<string, unknown>, expected: Record<string, unknown>): void {
  assert.deepEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, actual[key]])), expected);
}

function refuses(tar: Uint8Array, code: OcifsErrorCode, message: RegExp): void {
  assert.throws(
    () => readTar(tar),
    (error) => isOcifsError(error, code) && message.test(error.message),
  );
}

describe("tar walker: header formats", () => {
  it("reads every field of a ustar header", () => {
    const item: TarItem = { path: "bin/tool", mode: 0o4755, uid: 12, gid: 34, mtime: 1700000000, data: "content" };
    assert.deepEqual(only([item]), {
      type: "file",
      path: "bin/tool",
      linkPath: "",
      mode: 0o4755,
      uid: 12,
      gid: 34,
      mtimeSeconds: 1700000000,
      mtimeNanoseconds: 0,
      sizeBytes: 7,
      deviceMajor: 0,
      deviceMinor: 0,
      xattrs: {},
      headerOffset: 0,
      dataOffset: 512,
    });
  });

  it("joins the ustar prefix, and takes none from GNU and V7 headers", () => {
    const item: TarItem = { path: "name", prefix: "some/directory" };
    assertEntry(only([item]), { path: "some/directory/name" });
    assertEntry(only([{ ...item, format: "gnu" }]), { path: "name" });
    const v7 = tarItem({ path: "name", format: "v7" });
    assertEntry(only([v7]), { path: "name", type: "file" });
  });

  it("cuts star's shorter prefix before its times", () => {
    const star = tarItem({
      path: "name",
      prefix: "p".repeat(131),
      patch: (header) => {
        header.write("00000001234\0", 476, "latin1");
        header.write("tar\0", 508, "latin1");
      },
    });
    assertEntry(only([star]), { path: `${"p".repeat(131)}/name` });
  });

  it("fills whole name and link fields without a NUL", () => {
    const name = "n".repeat(100);
    const link = "l".repeat(100);
    assertEntry(only([{ path: name, type: "symlink", linkPath: link }]), { path: name, linkPath: link });
  });

  it("takes typeflag NUL and 7 as files, and a file with a trailing slash as a directory", () => {
    assertEntry(only([{ path: "a", typeflag: "\0", data: "x" }]), { type: "file", sizeBytes: 1 });
    assertEntry(only([{ path: "a", typeflag: "7", data: "x" }]), { type: "file", sizeBytes: 1 });
    assertEntry(only([{ path: "a/", typeflag: "\0", format: "v7" }]), { type: "directory", path: "a" });
    assertEntry(only([{ path: "a/", type: "file" }]), { type: "directory", path: "a" });
  });

  it("reads devices, fifos and links", () => {
    assertEntry(only([{ path: "c", type: "char", device: [300, 70000] }]), { deviceMajor: 300, deviceMinor: 70000 });
    assertEntry(only([{ path: "b", type: "block", device: [8, 1] }]), {
      type: "block",
      deviceMajor: 8,
      deviceMinor: 1,
    });
    assertEntry(only([{ path: "f", type: "fifo" }]), { type: "fifo" });
    assertEntry(only([{ path: "h", type: "hardlink", linkPath: "./x//y" }]), { type: "hardlink", linkPath: "x/y" });
    assertEntry(only([{ path: "s", type: "symlink", linkPath: "./x//y/" }]), { linkPath: "./x//y/" });
  });

  it("reads base-256 numbers, negative ones too", () => {
    const item: TarItem = { path: "a", uid: 4_000_000_000, mtime: -5 };
    assertEntry(only([item]), { uid: 4_000_000_000, mtimeSeconds: -5 });
    const big = tarHeader({ path: "a", headerSize: 2 ** 40 });
    refuses(Buffer.concat([big, endMarker]), "corrupt", /the tar ends at byte 1536, want 109951162675\d more bytes/);
    const tooBig = tarHeader({
      path: "a",
      patch: (header) => header.fill(0xff, 125, 136).writeUInt8(0x80, 124),
    });
    refuses(tooBig, "limit", /field size is larger than 2\^53/);
  });

  it("reads numbers with leading spaces, trailing spaces and no terminator", () => {
    const item: TarItem = {
      path: "a",
      patch: (header) => {
        header.write("   644 \0", 100, "latin1");
        header.write("01234567", 108, "latin1");
        header.write("\0\0\0\0\0\0\0\0", 116, "latin1");
      },
    };
    assertEntry(only([item]), { mode: 0o644, uid: 0o1234567, gid: 0 });
  });

  it("accepts a checksum summed over signed bytes", () => {
    const path = Buffer.from([0xff, 0xfe, 0x61]);
    const header = tarHeader({
      path,
      patchAfterChecksum: (block) => {
        block.write("        ", 148, "latin1");
        const sum = block.reduce((total, byte) => total + (byte > 127 ? byte - 256 : byte), 0);
        block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
      },
    });
    assertEntry(only([header]), { path: path.toString("latin1") });
  });

  it("ignores the size of what has no data", () => {
    const link: TarItem = { path: "h", type: "hardlink", linkPath: "a", headerSize: 5000 };
    const directory: TarItem = { path: "d", type: "directory", headerSize: 4096 };
    const { entries } = readTar(buildTar([link, directory, { path: "z" }]));
    assert.deepEqual(
      entries.map((entry) => [Buffer.from(entry.path).toString(), entry.sizeBytes]),
      [
        ["h", 0],
        ["d", 0],
        ["z", 0],
      ],
    );
  });
});

describe("tar walker: extensions", () => {
  it("keeps PAX values byte for byte", () => {
    const name = Buffer.from([0x64, 0x2f, 0xff, 0x0a, 0xc3, 0x28]);
    const capability = Buffer.from([1, 0, 0, 2, 0, 0x24, 0xff, 0x0a, 0]);
    const entry = only([
      { path: "x", pax: { path: name }, xattrs: { "security.capability": capability, "user.empty": "" } },
    ]);
    assertEntry(entry, {
      path: name.toString("latin1"),
      xattrs: { "security.capability": capability.toString("latin1"), "user.empty": "" },
    });
  });

  it("reads size, owner, time and link from PAX", () => {
    const pax = { size: "3", uid: "70000", gid: "4294967295", mtime: "1700000000.25", linkpath: "t" };
    const entry = only([{ path: "a", data: "abc", headerSize: 0, pax }]);
    assertEntry(entry, {
      sizeBytes: 3,
      uid: 70000,
      gid: 4294967295,
      mtimeSeconds: 1700000000,
      mtimeNanoseconds: 250000000,
    });
    assertEntry(only([{ path: "s", type: "symlink", linkPath: "other", pax }]), { linkPath: "t" });
  });

  it("reads times before 1970 and cuts below nanoseconds towards the past", () => {
    const time = (mtime: string) => {
      const { mtimeSeconds, mtimeNanoseconds } = only([{ path: "a", pax: { mtime } }]);
      return [mtimeSeconds, mtimeNanoseconds];
    };
    assert.deepEqual(time("-1.5"), [-2, 500000000]);
    assert.deepEqual(time("-3"), [-3, 0]);
    assert.deepEqual(time("-0.0000000001"), [-1, 999999999]);
    assert.deepEqual(time("-1.9999999999"), [-2, 0]);
    assert.deepEqual(time("0.1234567899"), [0, 123456789]);
    assert.deepEqual(time("7."), [7, 0]);
  });

  it("applies global records until an entry's own, and forgets local ones after their entry", () => {
    const global = paxHeader(
      [
        ["uid", "7"],
        ["gid", "8"],
        ["SCHILY.xattr.user.g", "1"],
      ],
      "g",
    );
    const local: TarItem = { path: "b", gid: 3, pax: { uid: "9", gid: "", "SCHILY.xattr.user.g": "2" } };
    const { entries } = readTar(buildTar([global, { path: "a" }, local, { path: "c" }]));
    assert.deepEqual(
      entries.map((entry) => [entry.uid, entry.gid, plainEntry(entry).xattrs]),
      [
        [7, 8, { "user.g": "1" }],
        [9, 3, { "user.g": "2" }],
        [7, 8, { "user.g": "1" }],
      ],
    );
  });

  it("reads libarchive's attributes and prefers star's", () => {
    const value = Buffer.from([0xff, 0, 1]);
    const pax = {
      "LIBARCHIVE.xattr.user.a%20b": value.toString("base64").replace(/=+$/, ""),
      "SCHILY.xattr.user.both": "raw",
      "LIBARCHIVE.xattr.user.both": Buffer.from("other").toString("base64"),
    };
    assertEntry(only([{ path: "a", pax }]), {
      xattrs: { "user.a b": value.toString("latin1"), "user.both": "raw" },
    });
  });

  it("reads GNU long names and links, cut at their NUL", () => {
    const name = `${"d/".repeat(100)}file`;
    const link = "t".repeat(300);
    const entry = only([
      extendedHeader("K", `${link}\0`),
      extendedHeader("L", `${name}\0`),
      { path: name.slice(0, 100), type: "symlink", linkPath: link.slice(0, 100), format: "gnu" },
    ]);
    assertEntry(entry, { path: name, linkPath: link });
  });

  it("passes over a volume label and its data", () => {
    assertEntry(only([{ path: "label", typeflag: "V", data: "x" }, { path: "a" }]), { path: "a" });
  });
});

describe("tar walker: paths", () => {
  it("normalizes them", () => {
    const path = (raw: string) => only([{ path: raw, type: "directory" }]).path;
    assert.equal(path("./a/./b//c/"), "a/b/c");
    assert.equal(path("/abs"), "abs");
    assert.equal(path("./"), "");
    assert.equal(path("."), "");
    assert.equal(path("/"), "");
    assert.equal(path("..."), "...");
  });

  it("refuses those that lead out, hold a NUL or are too long", () => {
    refuses(
      buildTar([{ path: "a/../../b" }]),
      "corrupt",
      /tar entry "a\/..\/..\/b" at byte 0: path .* contains "\.\."/,
    );
    refuses(buildTar([{ path: "h", type: "hardlink", linkPath: "../x" }]), "corrupt", /"\.\."/);
    refuses(buildTar([{ path: "a", pax: { path: "a\0b" } }]), "corrupt", /NUL byte/);
    refuses(buildTar([{ path: "n".repeat(256) }]), "limit", /longer than 255 bytes/);
    refuses(buildTar([{ path: "nnn/".repeat(1025) }]), "limit", /longer than 4095 bytes/);
    assert.equal(String(only([{ path: "n".repeat(255) }]).path).length, 255);
    refuses(buildTar([{ path: "" }]), "corrupt", /the root of the layer is a file/);
    refuses(buildTar([{ path: "s", type: "symlink" }]), "corrupt", /without a target/);
  });
});

describe("tar walker: the end of the archive", () => {
  const tar = buildTar([{ path: "a", data: "x".repeat(600) }], { end: false });

  it("is two zero blocks, and what follows is only counted", () => {
    const { end } = readTar(Buffer.concat([tar, endMarker, Buffer.alloc(100, 1)]));
    assert.deepEqual(end, {
      entryCount: 1,
      sizeBytes: 2660,
      endOffset: 2560,
      endMarkerFound: true,
      trailingBytes: 100,
    });
  });

  it("may be missing, or be one block", () => {
    assert.deepEqual(readTar(tar).end, {
      entryCount: 1,
      sizeBytes: 1536,
      endOffset: 1536,
      endMarkerFound: false,
      trailingBytes: 0,
    });
    assert.equal(readTar(Buffer.concat([tar, Buffer.alloc(512)])).end.endMarkerFound, false);
    assert.equal(readTar(Buffer.alloc(0)).end.sizeBytes, 0);
  });

  it("is corrupt inside an entry, a header, an extended header or before the entry one belongs to", () => {
    refuses(
      tar.subarray(0, 1111),
      "corrupt",
      /tar entry "a" at byte 0: the tar ends at byte 1111, want 425 more bytes/,
    );
    refuses(tar.subarray(0, 512), "corrupt", /want 1024 more bytes/);
    refuses(tar.subarray(0, 500), "corrupt", /inside a 512-byte header block/);
    refuses(paxHeader([["path", "x"]]).subarray(0, 515), "corrupt", /want more header blocks/);
    refuses(paxHeader([["path", "x"]]), "corrupt", /no entry follows/);
    refuses(Buffer.concat([paxHeader([["path", "x"]]), endMarker]), "corrupt", /no entry follows/);
    refuses(Buffer.concat([tar, Buffer.alloc(512), tar]), "corrupt", /is zero and the next one is not/);
  });
});

describe("tar walker: refusals", () => {
  it("names a wrong checksum, an unknown type, a bad number", () => {
    refuses(Buffer.alloc(512, 0x41), "corrupt", /header at byte 0 has a wrong checksum/);
    refuses(buildTar([{ path: "dump", typeflag: "D" }]), "unsupported", /tar entry "dump" at byte 0: entry type "D"/);
    refuses(buildTar([{ path: "a", patch: (h) => h.write("9", 108) }]), "corrupt", /tar entry "a" .* field uid/);
    refuses(buildTar([{ path: "a", uid: -1 }]), "corrupt", /uid is -1/);
    refuses(buildTar([{ path: "c", type: "char", device: [5000, 0] }]), "corrupt", /device 5000:0/);
  });

  it("names a PAX record that does not parse", () => {
    const pax = (payload: string) => buildTar([extendedHeader("x", payload), { path: "a" }]);
    for (const payload of [
      "x path=a\n",
      "99 path=a\n",
      "9 path=ab",
      "9 path=ab\t",
      "5 a\n\n\n",
      "4 =\n\n",
      "0 a=b\n",
      " 9 a=b\n",
    ]) {
      refuses(pax(payload), "corrupt", /PAX record at byte 0 of its header/);
    }
    refuses(buildTar([{ path: "a", pax: { mtime: "yesterday" } }]), "corrupt", /PAX mtime is "yesterday"/);
    refuses(buildTar([{ path: "a", pax: { size: "-1" } }]), "corrupt", /size -1 is negative/);
    refuses(buildTar([{ path: "a", pax: { size: "99999999999999999999" } }]), "limit", /PAX size is larger/);
    refuses(buildTar([{ path: "a", pax: { "LIBARCHIVE.xattr.user.a": "*" } }]), "corrupt", /not valid base64/);
    refuses(
      buildTar([{ path: "a", xattrs: { "user.a": Buffer.alloc(65536) } }]),
      "limit",
      /extended attribute "user.a"/,
    );
    refuses(buildTar([{ path: "a", xattrs: { "": "v" } }]), "corrupt", /impossible name/);
  });

  it("keeps no extended header larger than its limit", () => {
    const header = tarHeader({ path: "x", typeflag: "x", headerSize: 9 << 20 });
    refuses(header, "limit", /extended header of 9437184 bytes/);
    const globals = Array.from({ length: 9 }, (_, i) =>
      paxHeader([[`SCHILY.xattr.user.${i}`, Buffer.alloc(1 << 20)]], "g"),
    );
    refuses(buildTar(globals), "limit", /global PAX records add up/);
  });
});
