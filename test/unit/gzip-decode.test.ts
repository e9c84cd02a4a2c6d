import assert from "node:assert/strict";
import { open, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { type Checkpoint, encodeZinfo, windowSizeBytes } from "../../src/gzip/zinfo.js";
import { decodeSpan, zlibVersion } from "../../src/native/inflate.js";
import { sharedFixture } from "../support/fixtures.js";
import { decodeAll, noise, prose, tempDir } from "../support/gzip.js";

const fixture = (name: string) => sharedFixture(`erofs-utils-1.9.3/${name}`);
const indexes = [
  ["layer.zinfo", "layer.tar.gz"],
  ["layer.v1.zinfo", "layer.tar.gz"],
  ["multi-member.erofs.zinfo", "multi-member.tar.gz"],
  ["multi-member.soci.zinfo", "multi-member.tar.gz"],
] as const;

for (const [zinfo, blob] of indexes) {
  for (const zlib of [false, true]) {
    test(`every span of ${zinfo} decodes to the bytes of gunzip (${zlib ? "zlib" : "ISA-L"})`, async () => {
      const want = gunzipSync(await readFile(fixture(blob)));
      const whole = { uncompressedSizeBytes: want.length, streamEnds: true, zlib };
      assert.ok((await decodeAll(fixture(blob), fixture(zinfo), whole)).equals(want));
      // As with a foreign zinfo: the tarindex leaves out the padding behind the tar's end.
      const short = { uncompressedSizeBytes: want.length - 7680, streamEnds: false, zlib };
      assert.ok((await decodeAll(fixture(blob), fixture(zinfo), short)).equals(want.subarray(0, want.length - 7680)));
    });
  }
}

test("a layer size that is one byte off is noticed at the stream's end", async () => {
  for (const [zinfo, blob] of indexes) {
    for (const zlib of [false, true]) {
      const options = { uncompressedSizeBytes: 11786240, streamEnds: true, zlib };
      const less = decodeAll(fixture(blob), fixture(zinfo), { ...options, uncompressedSizeBytes: 11786239 });
      await assert.rejects(less, { code: "mismatch" });
      const more = decodeAll(fixture(blob), fixture(zinfo), { ...options, uncompressedSizeBytes: 11786241 });
      await assert.rejects(more, { code: "corrupt" });
    }
  }
});

test("the zinfo of another blob is a mismatch, or corrupt, never other bytes", async () => {
  for (const zlib of [false, true]) {
    const options = { uncompressedSizeBytes: 11786240, streamEnds: false, zlib };
    await assert.rejects(decodeAll(fixture("multi-member.tar.gz"), fixture("layer.zinfo"), options), {
      name: "OcifsError",
      code: /^(mismatch|corrupt)$/,
    });
    await assert.rejects(decodeAll(fixture("layer.tar.gz"), fixture("multi-member.soci.zinfo"), options), {
      name: "OcifsError",
      code: /^(mismatch|corrupt)$/,
    });
  }
});

test("a checkpoint at every member, as erofs-utils writes for eStargz: small and empty members, windows of rubbish", async () => {
  await using dir = await tempDir();
  const rubbish = new Uint8Array(windowSizeBytes).fill(0xaa);
  const parts = [5000, 0, 70_000, 1, 0, 0, 33_000, 200, 0].map((size, i) => (i % 2 ? noise(size, i) : prose(size, i)));
  const checkpoints: Checkpoint[] = [];
  const members: Buffer[] = [];
  let [compressed, out] = [0, 0];
  for (const part of parts) {
    const member = gzipSync(part);
    checkpoints.push({ in: compressed + 10, out, bits: 0, window: rubbish });
    members.push(member);
    compressed += member.length;
    out += part.length;
  }
  await writeFile(dir.file("blob"), Buffer.concat(members));
  await writeFile(dir.file("zinfo"), encodeZinfo(checkpoints, 4 << 20));
  const want = Buffer.concat(parts);
  for (const zlib of [false, true]) {
    for (const streamEnds of [false, true]) {
      const options = { uncompressedSizeBytes: want.length, streamEnds, zlib };
      assert.ok((await decodeAll(dir.file("blob"), dir.file("zinfo"), options)).equals(want));
    }
  }
  // Each of these spans holds a whole member, so its CRC-32 tells of damage without any digest.
  const bad = Buffer.concat(members);
  const middle = Math.floor((members[0]?.length ?? 0) / 2);
  bad[middle] = (bad[middle] ?? 0) ^ 1;
  await writeFile(dir.file("blob"), bad);
  for (const zlib of [false, true]) {
    const options = { uncompressedSizeBytes: want.length, streamEnds: true, zlib };
    await assert.rejects(decodeAll(dir.file("blob"), dir.file("zinfo"), options), {
      name: "OcifsError",
      code: /^(mismatch|corrupt)$/,
    });
  }
});

test("options that make no sense are usage errors", async () => {
  await using blob = await open(fixture("layer.tar.gz"), "r");
  const span = { fd: blob.fd, begin: 0, end: 1000, bits: 0, atHeader: true, outSizeBytes: 10, last: false };
  assert.equal((await decodeSpan(span)).length, 10);
  await assert.rejects(decodeSpan({ ...span, bits: 8, atHeader: false }), { code: "usage" });
  await assert.rejects(decodeSpan({ ...span, bits: 256, atHeader: false }), { code: "usage" });
  await assert.rejects(decodeSpan({ ...span, begin: 1001 }), { code: "usage" });
  await assert.rejects(decodeSpan({ ...span, begin: -1 }), { code: "usage" });
  await assert.rejects(decodeSpan({ ...span, outSizeBytes: 0.5 }), { code: "usage" });
  await assert.rejects(decodeSpan({ ...span, window: new Uint8Array(5) }), { code: "usage" });
  await assert.rejects(decodeSpan({ ...span, outSizeBytes: (64 << 20) + 1 }), { code: "limit" });
  await assert.rejects(decodeSpan({ ...span, fd: 1 << 20 }), { code: "io" });
});

test("the addon's zlib is its own", () => {
  assert.match(zlibVersion(), /^1\.\d/);
});
