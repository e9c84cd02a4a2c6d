import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { OcifsError } from "../../src/base/errors.js";
import { tarindexOfTar } from "../support/layers.js";
import { mutated } from "../support/mutations.js";
import { readTar } from "../support/read-tar.js";
import { buildTar, extendedHeader, paxHeader } from "../support/tar-builder.js";

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
      { numRuns: 2000 },
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
      { numRuns: 2000 },
    );
  });

  it("nor when several things are changed at once, blocks moved and doubled", () => {
    fc.assert(
      fc.property(mutated(tar), (damaged) => indexOrRefusal(damaged)),
      { numRuns: 1500 },
    );
    const blocks = Array.from({ length: tar.length / 512 }, (_, i) => tar.subarray(i * 512, (i + 1) * 512));
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...blocks), { maxLength: 40 }), (chosen) =>
        indexOrRefusal(Buffer.concat(chosen)),
      ),
      { numRuns: 1500 },
    );
  });
});
