import assert from "node:assert/strict";
import { readFile, truncate, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { type Checkpoint, encodeZinfo, openZinfo, windowSizeBytes } from "../../src/gzip/zinfo.js";
import { sharedFixture } from "../support/fixtures.js";
import { tempDir } from "../support/gzip.js";

const fixture = (name: string) => sharedFixture(`erofs-utils-1.9.3/${name}`);
const window = (fill: number) => new Uint8Array(windowSizeBytes).fill(fill);
const good: Checkpoint[] = [
  { in: 10, out: 0, bits: 0, window: window(0) },
  { in: 1000, out: 50000, bits: 3, window: window(1) },
  { in: 2000, out: 90000, bits: 0, window: window(2) },
];

const fixtures = [
  {
    zinfo: "layer.zinfo",
    blob: "layer.tar.gz",
    version: 2,
    in: [10, 793129, 4353534],
    out: [0, 4464121, 8672794],
    bits: [0, 5, 0],
  },
  {
    zinfo: "layer.v1.zinfo",
    blob: "layer.tar.gz",
    version: 1,
    in: [10, 793129, 4353534],
    out: [0, 4464121, 8672794],
    bits: [0, 5, 0],
  },
  {
    zinfo: "multi-member.soci.zinfo",
    blob: "multi-member.tar.gz",
    version: 2,
    in: [10, 775985, 4235647],
    out: [0, 4347401, 8552502],
    bits: [0, 6, 0],
  },
];

for (const want of fixtures) {
  test(`${want.zinfo} parses to the checkpoints its tool wrote`, async () => {
    const blobSizeBytes = (await readFile(fixture(want.blob))).length;
    const bytes = await readFile(fixture(want.zinfo));
    await using zinfo = await openZinfo(fixture(want.zinfo), { blobSizeBytes });
    assert.equal(zinfo.version, want.version);
    assert.equal(zinfo.spanSizeBytes, 4 << 20);
    assert.equal(zinfo.checkpointCount, 3);
    assert.deepEqual([...zinfo.in], want.in);
    assert.deepEqual([...zinfo.out], want.out);
    assert.deepEqual([...zinfo.bits], want.bits);
    assert.equal(zinfo.windowOffset(0), -1);
    assert.equal(zinfo.windowOffset(2) + windowSizeBytes, bytes.length);
  });
}

test("erofs-utils' zinfo of several members has a checkpoint at every member", async () => {
  const blobSizeBytes = (await readFile(fixture("multi-member.tar.gz"))).length;
  await using zinfo = await openZinfo(fixture("multi-member.erofs.zinfo"), { blobSizeBytes });
  assert.equal(zinfo.checkpointCount, 12);
  assert.deepEqual(
    [...zinfo.out],
    Array.from({ length: 12 }, (_, i) => i << 20),
  );
});

for (const version of [1, 2] as const) {
  test(`version ${version}: what is encoded is read back`, async () => {
    await using dir = await tempDir();
    const bytes = encodeZinfo(good, 1 << 20, version);
    assert.equal(bytes.length, 12 + (version === 2 ? 3 : 2) * 32785);
    await writeFile(dir.file("z"), bytes);
    await using zinfo = await openZinfo(dir.file("z"), { blobSizeBytes: 3000 });
    assert.equal(zinfo.version, version);
    assert.deepEqual([...zinfo.in], [10, 1000, 2000]);
    assert.deepEqual([...zinfo.out], [0, 50000, 90000]);
    assert.deepEqual([...zinfo.bits], [0, 3, 0]);
    for (const i of [1, 2]) {
      const at = zinfo.windowOffset(i);
      assert.deepEqual(bytes.subarray(at, at + windowSizeBytes), Buffer.from(window(i)));
    }
  });
}

test("a version 1 file of one checkpoint is a header alone", async () => {
  await using dir = await tempDir();
  await writeFile(dir.file("z"), encodeZinfo(good.slice(0, 1), 1 << 20, 1));
  await using zinfo = await openZinfo(dir.file("z"), { blobSizeBytes: 3000 });
  assert.deepEqual([zinfo.version, [...zinfo.in], [...zinfo.out]], [1, [10], [0]]);
});

test("equal output offsets, as around an empty gzip member, are taken", async () => {
  await using dir = await tempDir();
  const empty = [...good, { in: 2020, out: 90000, bits: 0, window: window(3) }];
  await writeFile(dir.file("z"), encodeZinfo(empty, 1 << 20));
  await using zinfo = await openZinfo(dir.file("z"), { blobSizeBytes: 3000 });
  assert.equal(zinfo.checkpointCount, 4);
});

const refused: { what: string; change: (c: Checkpoint[]) => Checkpoint[]; code: string; message: RegExp }[] = [
  { what: "no checkpoints", change: () => [], code: "corrupt", message: /no checkpoints/ },
  {
    what: "a first checkpoint not at output 0",
    change: ([a, ...r]) => [{ ...a, out: 1 } as Checkpoint, ...r],
    code: "corrupt",
    message: /checkpoint 0 .* not 0/,
  },
  {
    what: "odd bits at the first",
    change: ([a, ...r]) => [{ ...a, bits: 1 } as Checkpoint, ...r],
    code: "corrupt",
    message: /checkpoint 0 .*whole byte/,
  },
  {
    what: "a first inside the header",
    change: ([a, ...r]) => [{ ...a, in: 9 } as Checkpoint, ...r],
    code: "corrupt",
    message: /inside the gzip header/,
  },
  {
    what: "eight odd bits",
    change: ([a, b]) => [a, { ...b, bits: 8 }] as Checkpoint[],
    code: "corrupt",
    message: /checkpoint 1 has 8 odd bits/,
  },
  {
    what: "compressed offsets that stand still",
    change: ([a, b]) => [a, b, { ...b, out: 60000 }] as Checkpoint[],
    code: "corrupt",
    message: /checkpoint 2 .* not behind/,
  },
  {
    what: "uncompressed offsets that run backwards",
    change: ([a, b, c]) => [a, b, { ...c, out: 49999 }] as Checkpoint[],
    code: "corrupt",
    message: /checkpoint 2 .* before the one before/,
  },
  {
    what: "more output than deflate can pack",
    change: ([a, b]) => [a, { ...b, out: 1032 * 991 + 1 }] as Checkpoint[],
    code: "corrupt",
    message: /more than deflate can pack/,
  },
  {
    what: "a checkpoint beyond the blob",
    change: ([a, b]) => [a, { ...b, in: 2993 }] as Checkpoint[],
    code: "mismatch",
    message: /another blob/,
  },
];

for (const { what, change, code, message } of refused) {
  test(`refused: ${what}`, async () => {
    await using dir = await tempDir();
    await writeFile(dir.file("z"), encodeZinfo(change(good), 1 << 20));
    await assert.rejects(openZinfo(dir.file("z"), { blobSizeBytes: 3000 }), { name: "OcifsError", code, message });
  });
}

test("a length that fits neither version is refused", async () => {
  await using dir = await tempDir();
  const bytes = encodeZinfo(good, 1 << 20);
  for (const length of [0, 11, 12, 13, 12 + 32785, 12 + 2 * 32785 - 1, 12 + 2 * 32785 + 1, bytes.length - 1]) {
    await writeFile(dir.file("z"), bytes);
    await truncate(dir.file("z"), length);
    await assert.rejects(openZinfo(dir.file("z"), { blobSizeBytes: 3000 }), { code: "corrupt" }, `length ${length}`);
  }
  await truncate(dir.file("z"), bytes.length + 1);
  await assert.rejects(openZinfo(dir.file("z"), { blobSizeBytes: 3000 }), { code: "corrupt" });
});

test("offsets of 2^53 and more, span sizes of 2^53 and more and too many checkpoints are refused", async () => {
  await using dir = await tempDir();
  const refuse = async (change: (bytes: Buffer) => void, code: string) => {
    const bytes = Buffer.from(encodeZinfo(good, 1 << 20));
    change(bytes);
    await writeFile(dir.file("z"), bytes);
    await assert.rejects(openZinfo(dir.file("z"), { blobSizeBytes: 3000 }), { code });
  };
  await refuse((b) => b.writeBigUInt64LE(1n << 53n, 12 + 32785), "corrupt");
  await refuse((b) => b.writeBigUInt64LE((1n << 64n) - 1n, 12 + 32785 + 8), "corrupt");
  await refuse((b) => b.writeBigUInt64LE(1n << 53n, 4), "corrupt");
  await refuse((b) => b.writeUInt32LE(limits.checkpoints + 1, 0), "limit");
});

test("a zinfo that is not there is an io error that names it", async () => {
  await using dir = await tempDir();
  await assert.rejects(openZinfo(dir.file("none"), { blobSizeBytes: 1 }), { code: "io", message: /none/ });
});
