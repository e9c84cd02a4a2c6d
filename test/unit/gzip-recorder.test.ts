import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { open, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { openGzipRecorder } from "../../src/native/inflate.js";
import { sharedFixture } from "../support/fixtures.js";
import { decodeAll, indexBlob, noise, prose, recordGzip, sha256, tempDir } from "../support/gzip.js";

const fixture = (name: string) => sharedFixture(`erofs-utils-1.9.3/${name}`);

for (const [blob, zinfo] of [
  ["layer.tar.gz", "layer.zinfo"],
  ["multi-member.tar.gz", "multi-member.soci.zinfo"],
] as const) {
  for (const zlib of [false, true]) {
    test(`the zinfo of ${blob} is ${zinfo}, byte for byte (${zlib ? "zlib" : "ISA-L"})`, async () => {
      await using dir = await tempDir();
      const bytes = await readFile(fixture(blob));
      const recorded = await recordGzip(bytes, dir.file("z"), { spanSizeBytes: 4 << 20, zlib });
      assert.ok((await readFile(dir.file("z"))).equals(await readFile(fixture(zinfo))));
      assert.equal(recorded.compressedSizeBytes, bytes.length);
      assert.equal(recorded.uncompressedSizeBytes, 11786240);
      assert.equal(recorded.checkpointCount, 3);
      assert.equal(recorded.trailingBytes, 0);
    });
  }
}

/** Records with both engines and compares; decodes every span; checks every digest. */
async function roundTrip(blob: Uint8Array, want: Buffer, spanSizeBytes: number, trailingBytes = 0): Promise<void> {
  await using dir = await tempDir();
  const made = await indexBlob(dir, blob, { spanSizeBytes });
  assert.ok(made.output.equals(want));
  assert.equal(made.compressedSizeBytes, blob.length);
  assert.equal(made.uncompressedSizeBytes, want.length);
  assert.equal(made.trailingBytes, trailingBytes);
  const zlib = await recordGzip(blob, dir.file("zlib"), { spanSizeBytes, zlib: true, inputPieceBytes: 10007 });
  assert.ok((await readFile(dir.file("zlib"))).equals(await readFile(made.zinfoPath)));
  assert.deepEqual(zlib.spanDigests, made.spanDigests);

  const decoded = await decodeAll(made.blobPath, made.zinfoPath, {
    uncompressedSizeBytes: want.length,
    streamEnds: true,
  });
  assert.ok(decoded.equals(want));
  const bytes = await readFile(made.zinfoPath);
  const out = Array.from({ length: made.checkpointCount }, (_, i) => Number(bytes.readBigUInt64LE(20 + i * 32785)));
  const digests = out.map((from, i) => sha256(want.subarray(from, out[i + 1] ?? want.length)));
  assert.ok(Buffer.concat(digests).equals(made.spanDigests));
  assert.ok(sha256(want).equals(made.digest));
}

const mixed = Buffer.concat([prose(700_000), noise(500_000), Buffer.alloc(900_000), prose(300_000, 2)]);
const contents: [string, Buffer][] = [
  ["text", prose(2_500_000)],
  ["noise", noise(1_500_000)],
  ["zeros", Buffer.alloc(4 << 20)],
  ["a mixture", mixed],
  ["one byte", Buffer.from("a")],
  ["nothing", Buffer.alloc(0)],
];

for (const [name, content] of contents) {
  for (const spanSizeBytes of [1 << 20, 64 << 10]) {
    test(`${name} with spans of ${spanSizeBytes >> 10} KiB`, async () => {
      await roundTrip(gzipSync(content), content, spanSizeBytes);
      await roundTrip(gzipSync(content, { level: 0 }), content, spanSizeBytes);
    });
  }
}

test("what gzip and pigz write: a name, several processors, members one after another, zero padding", async () => {
  await using dir = await tempDir();
  await writeFile(dir.file("a file with a name"), mixed);
  const run = (command: string, args: string[]) => execFileSync(command, args, { cwd: dir.path, maxBuffer: 64 << 20 });
  const named = run("gzip", ["-c", "-1", "a file with a name"]);
  assert.ok(named.includes("a file with a name"));
  await roundTrip(named, mixed, 64 << 10);
  await roundTrip(run("pigz", ["-c", "-p", "2", "-b", "128", "a file with a name"]), mixed, 64 << 10);
  await roundTrip(run("pigz", ["-c", "-p", "2", "-i", "a file with a name"]), mixed, 1 << 20);

  const empty = gzipSync(Buffer.alloc(0));
  const text = prose(200_000, 9);
  const members = Buffer.concat([empty, named, empty, gzipSync(text), named, empty]);
  const plain = Buffer.concat([mixed, text, mixed]);
  await roundTrip(members, plain, 64 << 10);
  await roundTrip(Buffer.concat([members, Buffer.alloc(100_000)]), plain, 1 << 20);
  // Foreign bytes behind the last member are counted, not read: gzip(1) warns and ignores them.
  await roundTrip(Buffer.concat([members, Buffer.from("\0\0no gzip\0")]), plain, 1 << 20, 8);
  await roundTrip(Buffer.concat([members, Buffer.alloc(10), named]), plain, 1 << 20, named.length);
});

test("a header with extra field, name, comment and its own checksum", async () => {
  const raw = gzipSync(mixed).subarray(10);
  const extra = Buffer.concat([Buffer.from([3, 0]), Buffer.from("abc")]);
  const fields = Buffer.concat([
    Buffer.from([0x1f, 0x8b, 8, 4 | 8 | 16, 1, 2, 3, 4, 0, 3]),
    extra,
    Buffer.from("name\0comment\0"),
  ]);
  await roundTrip(Buffer.concat([fields, raw]), mixed, 64 << 10);
  const checked = Buffer.from(fields);
  checked[3] = 4 | 8 | 16 | 2;
  const wrong = Buffer.concat([checked, Buffer.from([0x12, 0x34]), raw]);
  await using dir = await tempDir();
  for (const zlib of [false, true]) {
    await assert.rejects(recordGzip(wrong, dir.file("z"), { spanSizeBytes: 1 << 20, zlib }), { code: "corrupt" });
  }
});

const blob = gzipSync(mixed);
const damaged: [string, Buffer, string][] = [
  ["no gzip at all", Buffer.from("hello, this is a tar perhaps"), "corrupt"],
  ["a zlib stream", Buffer.from([0x78, 0x9c, 3, 0, 0, 0, 0, 1]), "corrupt"],
  ["nothing at all", Buffer.alloc(0), "corrupt"],
  ["a blob cut in its data", blob.subarray(0, 5000), "corrupt"],
  ["a blob cut in its trailer", blob.subarray(0, -3), "corrupt"],
  ["a wrong CRC-32", Buffer.concat([blob.subarray(0, -8), Buffer.from([1, 2, 3, 4]), blob.subarray(-4)]), "mismatch"],
  ["a wrong length", Buffer.concat([blob.subarray(0, -4), Buffer.from([1, 2, 3, 4])]), "mismatch"],
  ["a cut second member", Buffer.concat([blob, blob.subarray(0, 100)]), "corrupt"],
  ["half a magic number behind a member", Buffer.concat([blob, Buffer.from([0x1f])]), "corrupt"],
];

for (const [what, bytes, code] of damaged) {
  test(`recording refuses ${what}`, async () => {
    await using dir = await tempDir();
    for (const zlib of [false, true]) {
      await assert.rejects(recordGzip(bytes, dir.file("z"), { spanSizeBytes: 1 << 20, zlib }), {
        name: "OcifsError",
        code,
      });
    }
  });
}

test("one step at a time; close is safe during a step and ends everything else", async () => {
  await using dir = await tempDir();
  await using file = await open(dir.file("z"), "w+");
  const recorder = openGzipRecorder({ zinfoFd: file.fd, spanSizeBytes: 1 << 20 });
  const output = Buffer.alloc(4 << 20);
  const first = recorder.step(blob, output);
  await assert.rejects(recorder.step(blob, output), { code: "usage" });
  assert.throws(() => recorder.finish(), { code: "usage" });
  recorder.close();
  recorder.close();
  assert.equal((await first).produced, mixed.length);
  assert.ok(output.subarray(0, mixed.length).equals(mixed));
  await assert.rejects(recorder.step(blob, output), { code: "usage" });
  assert.throws(() => recorder.finish(), { code: "usage" });
});

test("after a failure the recorder says so", async () => {
  await using dir = await tempDir();
  await using file = await open(dir.file("z"), "w+");
  const recorder = openGzipRecorder({ zinfoFd: file.fd, spanSizeBytes: 1 << 20 });
  await assert.rejects(recorder.step(Buffer.from("no gzip"), Buffer.alloc(10)), { code: "corrupt" });
  await assert.rejects(recorder.step(blob, Buffer.alloc(10)), { code: "usage" });
  assert.throws(() => recorder.finish(), { code: "usage" });
  recorder.close();
});

test("a zinfo that cannot be written is an error of its own, and too many checkpoints a limit", async () => {
  await using full = await open("/dev/full", "w");
  const stuck = openGzipRecorder({ zinfoFd: full.fd, spanSizeBytes: 32768 });
  await assert.rejects(stuck.step(blob, Buffer.alloc(4 << 20)), { code: "no-space" });
  stuck.close();
  await using dir = await tempDir();
  await using file = await open(dir.file("z"), "w+");
  const few = openGzipRecorder({ zinfoFd: file.fd, spanSizeBytes: 32768, maxCheckpoints: 3 });
  await assert.rejects(few.step(blob, Buffer.alloc(4 << 20)), { code: "limit" });
  few.close();
  assert.throws(() => openGzipRecorder({ zinfoFd: file.fd, spanSizeBytes: 32767 }), { code: "usage" });
  assert.throws(() => openGzipRecorder({ zinfoFd: 1 << 20, spanSizeBytes: 32768 }), { code: "io" });
});
