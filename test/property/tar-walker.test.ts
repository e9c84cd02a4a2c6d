import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { OcifsError } from "../../src/base/errors.js";
import { writeTarindex } from "../../src/erofs/tarindex-writer.js";
import { TarTree } from "../../src/index/tar-tree.js";
import type { TarEntry } from "../../src/tar/entry.js";
import { TarWalker } from "../../src/tar/walker.js";
import { tarindexOfTar, zeroUuid } from "../support/layers.js";
import { mutated } from "../support/mutations.js";
import { readTar } from "../support/read-tar.js";
import { buildTar, extendedHeader, paxHeader, type TarItem } from "../support/tar-builder.js";

/** Something of everything. */
const tar = buildTar([
  paxHeader([["uid", "5"]], "g"),
  { path: "./", type: "directory", mode: 0o755 },
  { path: "a/b/c", data: "x".repeat(700), xattrs: { "user.k": Buffer.from([0, 255, 10]) } },
  { path: "link", type: "symlink", linkPath: "t".repeat(150) },
  extendedHeader("L", `${"long/".repeat(30)}name\0`),
  { path: "short", format: "gnu", data: "y" },
  { path: "hard", type: "hardlink", linkPath: "a/b/c" },
  { path: "dev", type: "char", device: [1, 3] },
  {
    path: "s",
    pax: { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4096", "GNU.sparse.name": "s" },
    data: `${"1\n1024\n512\n".padEnd(512, "\0")}${"z".repeat(512)}`,
  },
  { path: "a/.wh.gone" },
]);

describe("tar walker, any input", () => {
  const whole = readTar(tar);

  it("tells the same however the tar is cut", () => {
    assert.equal(whole.entries.length, 8);
    for (const size of [1, 2, 3, 511, 512, 513, 1000]) assert.deepEqual(readTar(tar, [size]), whole);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 1500 }), { minLength: 1, maxLength: 40 }), (cuts) => {
        assert.deepEqual(readTar(tar, cuts), whole);
      }),
    );
  });

  const index = tarindexOfTar(tar);

  /** Either a tarindex or an OcifsError; nothing else may come out of a damaged tar. */
  function indexOrRefusal(damaged: Uint8Array): void {
    try {
      assert.equal(tarindexOfTar(damaged, "overlay").length % 4096, 0);
    } catch (error) {
      assert.ok(error instanceof OcifsError && error.code !== "internal", String(error));
    }
  }

  it("never fails but with an OcifsError when a byte is changed", () => {
    assert.ok(index.length > 0);
    for (let at = 0; at < tar.length; at++) {
      for (const mask of [0xff, 0x01, 0x40]) {
        const damaged = Buffer.from(tar);
        damaged[at] = (damaged[at] ?? 0) ^ mask;
        indexOrRefusal(damaged);
      }
    }
  });

  it("nor when header bytes are changed under a right checksum", () => {
    const headerStarts = Array.from({ length: tar.length / 512 }, (_, i) => i * 512).filter(
      (at) => tar.toString("latin1", at + 257, at + 262) === "ustar",
    );
    assert.ok(headerStarts.length >= 10);
    fc.assert(
      fc.property(
        fc.constantFrom(...headerStarts),
        fc.array(fc.tuple(fc.integer({ min: 0, max: 511 }), fc.integer({ min: 0, max: 255 })), {
          minLength: 1,
          maxLength: 6,
        }),
        (start, changes) => {
          const damaged = Buffer.from(tar);
          for (const [at, value] of changes) damaged[start + at] = value;
          damaged.write("        ", start + 148, "latin1");
          const sum = damaged.subarray(start, start + 512).reduce((total, byte) => total + byte, 0);
          damaged.write(`${sum.toString(8).padStart(6, "0")}\0 `, start + 148, "latin1");
          indexOrRefusal(damaged);
        },
      ),
      { numRuns: 600 },
    );
  });

  it("nor when the tar is cut short", () => {
    for (let length = 0; length < tar.length; length += 37) indexOrRefusal(tar.subarray(0, length));
  });

  it("nor when PAX payloads are anything", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.constantFrom("x", "g", "L", "K"), (payload, typeflag) => {
        indexOrRefusal(buildTar([extendedHeader(typeflag, payload), { path: "a" }]));
      }),
      { numRuns: 600 },
    );
  });

  it("nor when several things are changed at once, blocks moved and doubled", () => {
    fc.assert(
      fc.property(mutated(tar), (damaged) => indexOrRefusal(damaged)),
      { numRuns: 600 },
    );
    const blocks = Array.from({ length: tar.length / 512 }, (_, i) => tar.subarray(i * 512, (i + 1) * 512));
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...blocks), { maxLength: 40 }), (chosen) =>
        indexOrRefusal(Buffer.concat(chosen)),
      ),
      { numRuns: 600 },
    );
  });
});

/** Few names, so that entries meet: replace one another, lie below links, and leave the tree. */
const someName = fc.constantFrom(
  "a",
  "b",
  "up",
  "up/a",
  "a/b",
  "b/a/c",
  "a/up/b",
  "./a/c/",
  "x".repeat(99),
  "a//b",
  "../a",
  "./",
  "",
);
const someItem: fc.Arbitrary<TarItem> = fc.record({
  path: someName,
  type: fc.constantFrom("file", "file", "directory", "directory", "symlink", "hardlink", "char"),
  linkPath: fc.constantFrom("a", "..", "../..", "b/a", "/a", "./a/b", ""),
  data: fc.constantFrom("", "x", "y".repeat(513)),
  prefix: fc.constantFrom("", "", "a", "./b/", "p".repeat(155)),
  mtime: fc.constantFrom(0, 1, 1_700_000_000, -1, 2 ** 40),
  uid: fc.constantFrom(0, 1000, 2 ** 31),
  mode: fc.constantFrom(0o644, 0o4755),
});
/** Most are plain; headers of PAX and GNU, bad fields and stray blocks stand between them. */
const someTar = fc
  .array(
    fc.oneof(
      { weight: 12, arbitrary: someItem },
      { weight: 1, arbitrary: fc.constant({ path: "q", pax: { uid: "7", mtime: "5.5" } } satisfies TarItem) },
      { weight: 1, arbitrary: fc.constant(extendedHeader("L", "a/long/name\0")) },
      { weight: 1, arbitrary: fc.constant(Buffer.alloc(512)) },
      {
        weight: 1,
        arbitrary: fc.tuple(someItem, fc.integer({ min: 0, max: 511 }), fc.integer({ min: 0, max: 255 })).map(
          ([item, at, value]): TarItem => ({
            ...item,
            patch: (header) => {
              header[at] = value;
            },
          }),
        ),
      },
    ),
    { maxLength: 25 },
  )
  .map((items) => buildTar(items));

/** What a tar comes to: entries until the end or a refusal, and that. */
function outcome(tar: Uint8Array, cuts?: readonly number[]): unknown {
  const told: TarEntry[] = [];
  try {
    const { entries, end } = readTar(tar, cuts, told);
    return { entries, end };
  } catch (error) {
    assert.ok(error instanceof OcifsError, String(error));
    return { told, code: error.code, message: error.message };
  }
}

/** The tarindex of a tar, or the refusal. Pieces below a block leave the headers to the walker alone. */
function indexOutcome(tar: Uint8Array, pieceBytes: number, plain: boolean): unknown {
  const layer = new TarTree({ whiteouts: "keep" });
  const walker = new TarWalker({
    entry: (entry) => layer.add(entry),
    ...(plain ? { plainEntries: (entries) => layer.addPlain(entries) } : {}),
  });
  try {
    for (let at = 0; at < tar.length; at += pieceBytes) walker.push(tar.subarray(at, at + pieceBytes));
    const end = walker.finish();
    const { tree, impliedDirectories, danglingLinks } = layer.finish();
    const devices = [{ tag: "", blocks: Math.ceil(end.endOffset / 512) }];
    const bytes = Buffer.concat([...writeTarindex(tree, { devices, uuid: zeroUuid })]);
    return { bytes: bytes.toString("latin1"), impliedDirectories, danglingLinks };
  } catch (error) {
    assert.ok(error instanceof OcifsError, String(error));
    return { code: error.code, message: error.message };
  }
}

describe("tar walker, plain headers", () => {
  it("tells the same, and refuses in the same words, whether it reads headers many at a time or one by one", () => {
    let plain = 0;
    fc.assert(
      fc.property(someTar, fc.integer({ min: 0, max: 3000 }), (tar, cut) => {
        const cutShort = tar.subarray(0, tar.length - Math.max(0, cut - 1500));
        const expected = outcome(cutShort, [511]);
        assert.deepEqual(outcome(cutShort), expected);
        assert.deepEqual(outcome(cutShort, [1024]), expected);
        if (typeof expected === "object" && expected !== null && "end" in expected) plain++;
      }),
      { numRuns: 700 },
    );
    assert.ok(plain > 30, `${plain} tars were read to their end`);
  });

  it("builds the same tree from many at a time", () => {
    let built = 0;
    fc.assert(
      fc.property(someTar, (tar) => {
        const expected = indexOutcome(tar, 511, false);
        assert.deepEqual(indexOutcome(tar, tar.length, true), expected);
        assert.deepEqual(indexOutcome(tar, 4096, true), expected);
        if (typeof expected === "object" && expected !== null && "bytes" in expected) built++;
      }),
      { numRuns: 700 },
    );
    assert.ok(built > 30, `${built} trees were built`);
  });

  it("stops at the limit of one scan and goes on", () => {
    const items = Array.from(
      { length: 3000 },
      (_, i): TarItem => ({ path: `d${i % 7}/f${i}`, data: "z".repeat(i % 600) }),
    );
    const tar = buildTar(items);
    assert.deepEqual(readTar(tar), readTar(tar, [300]));
    assert.equal(readTar(tar).entries.length, 3000);
  });
});
