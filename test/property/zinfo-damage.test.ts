import assert from "node:assert/strict";
import { open, readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { isOcifsError } from "../../src/base/errors.js";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { openZinfo } from "../../src/gzip/zinfo.js";
import { decodeAll, decodeIndexedSpan, indexBlob, noise, prose, sha256, tempDir } from "../support/gzip.js";

const plain = Buffer.concat([prose(90_000), noise(30_000), prose(60_000, 2)]);
const firstMemberBytes = 150_000;
const blob = Buffer.concat([gzipSync(plain.subarray(0, firstMemberBytes)), gzipSync(plain.subarray(firstMemberBytes))]);

type Outcome = "right" | "refused" | "caught by the digest";

/** Opens and decodes everything as a mount with span digests would; the third outcome is what the digests are for. */
async function readAll(
  blobPath: string,
  zinfoPath: string,
  sizeBytes: number,
  digests: Uint8Array,
): Promise<Outcome[]> {
  await using file = await open(blobPath, "r");
  const blobSizeBytes = (await file.stat()).size;
  const outcomes: Outcome[] = [];
  const attempt = async (work: () => Promise<Outcome>) => {
    try {
      outcomes.push(await work());
    } catch (error) {
      assert.ok(isOcifsError(error) && error.code !== "internal", String(error));
      outcomes.push("refused");
    }
  };
  await attempt(async () => {
    await using zinfo = await openZinfo(zinfoPath, { blobSizeBytes });
    const index = new SpanIndex(zinfo, { blobSizeBytes, uncompressedSizeBytes: sizeBytes, streamEnds: true });
    for (let i = 0; i < index.spanCount; i++) {
      await attempt(async () => {
        const bytes = await decodeIndexedSpan(file.fd, zinfo, index, i);
        const record = index.recordOf(i);
        if (!sha256(bytes).equals(digests.subarray(record * 32, record * 32 + 32))) return "caught by the digest";
        assert.ok(
          plain.subarray(index.outStart(i), index.outEnd(i)).equals(bytes),
          `span ${i} is not what it should be`,
        );
        return "right";
      });
    }
    return "right";
  });
  return outcomes;
}

test("every byte of the zinfo outside the windows, and many inside: right bytes or an error", async () => {
  await using dir = await tempDir();
  const made = await indexBlob(dir, blob, { spanSizeBytes: 40_000 });
  assert.ok(made.checkpointCount >= 3);
  const zinfo = await readFile(made.zinfoPath);
  const offsets = Array.from({ length: 12 }, (_, i) => i);
  for (let record = 0; record < made.checkpointCount; record++) {
    for (let i = 0; i < 17; i++) offsets.push(12 + record * 32785 + i);
    for (let i = record; record > 0 && i < 32768; i += 1021) offsets.push(12 + record * 32785 + 17 + i);
  }
  for (const offset of offsets) {
    for (const flip of [1, 0x80]) {
      const bad = Buffer.from(zinfo);
      bad[offset] = (bad[offset] ?? 0) ^ flip;
      await writeFile(made.zinfoPath, bad);
      const outcomes = await readAll(made.blobPath, made.zinfoPath, plain.length, made.spanDigests);
      const record = Math.floor((offset - 12) / 32785);
      const inWindow = record > 0 && (offset - 12) % 32785 >= 17;
      const startsMember = record > 0 && zinfo.readBigUInt64LE(12 + record * 32785 + 8) === BigInt(firstMemberBytes);
      if (outcomes.every((o) => o === "right")) {
        // The span size is a note; the header is parsed, not skipped to; a member's start has no use for a window; a stored
        // block begins with zero bits up to a whole byte, so that one bit more or less changes nothing.
        const bits = record > 0 && (offset - 12) % 32785 === 16;
        const unused = (offset >= 4 && offset < 20) || (startsMember && inWindow) || bits;
        assert.ok(unused, `byte ${offset} made no difference`);
      } else if (inWindow) {
        assert.ok(outcomes.includes("refused"), `the span before must notice byte ${offset} of its window`);
      }
    }
  }
});

test("any byte of the blob: right bytes or an error, or the digest tells", async () => {
  await using dir = await tempDir();
  const made = await indexBlob(dir, blob, { spanSizeBytes: 40_000 });
  const flips = fc.tuple(fc.nat(blob.length - 1), fc.integer({ min: 1, max: 255 }));
  await fc.assert(
    fc.asyncProperty(fc.array(flips, { minLength: 1, maxLength: 3 }), async (changes) => {
      const bad = Buffer.from(blob);
      for (const [at, flip] of changes) bad[at] = (bad[at] ?? 0) ^ flip;
      await writeFile(made.blobPath, bad);
      const outcomes = await readAll(made.blobPath, made.zinfoPath, plain.length, made.spanDigests);
      assert.ok(outcomes.length >= made.checkpointCount);
    }),
    { numRuns: 300 },
  );
});

test("a blob or a zinfo cut anywhere is refused", async () => {
  await using dir = await tempDir();
  const made = await indexBlob(dir, blob, { spanSizeBytes: 40_000 });
  const zinfo = await readFile(made.zinfoPath);
  const options = { uncompressedSizeBytes: plain.length, streamEnds: true };
  await fc.assert(
    fc.asyncProperty(fc.nat(blob.length - 1), async (length) => {
      await writeFile(made.blobPath, blob.subarray(0, length));
      await assert.rejects(decodeAll(made.blobPath, made.zinfoPath, options), { name: "OcifsError" });
    }),
    { numRuns: 100 },
  );
  await writeFile(made.blobPath, blob);
  await fc.assert(
    fc.asyncProperty(fc.nat(zinfo.length - 1), async (length) => {
      // One record less is version 1: then checkpoint 0 is implied and every offset moves by one.
      await writeFile(made.zinfoPath, zinfo.subarray(0, length));
      await assert.rejects(decodeAll(made.blobPath, made.zinfoPath, options), { name: "OcifsError" });
    }),
    { numRuns: 100, examples: [[zinfo.length - 32785]] },
  );
});

test("any sequence of members, padding and piece sizes records and decodes to its content", async () => {
  const member = fc.record({
    sizeBytes: fc.integer({ min: 0, max: 150_000 }),
    text: fc.boolean(),
    level: fc.integer({ min: 0, max: 9 }),
    seed: fc.integer({ min: 1, max: 1000 }),
  });
  const pieces = fc.integer({ min: 1000, max: 100_000 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(member, { minLength: 1, maxLength: 5 }),
      fc.nat(3000),
      pieces,
      pieces,
      async (members, padding, i, o) => {
        await using dir = await tempDir();
        const parts = members.map((m) => (m.text ? prose(m.sizeBytes, m.seed) : noise(m.sizeBytes, m.seed)));
        const gz = Buffer.concat([
          ...parts.map((p, k) => gzipSync(p, { level: members[k]?.level ?? 6 })),
          Buffer.alloc(padding),
        ]);
        const want = Buffer.concat(parts);
        const options = { spanSizeBytes: 32768, inputPieceBytes: i, outputPieceBytes: o };
        const made = await indexBlob(dir, gz, options);
        assert.ok(made.output.equals(want));
        const decoded = await decodeAll(made.blobPath, made.zinfoPath, {
          uncompressedSizeBytes: want.length,
          streamEnds: true,
        });
        assert.ok(decoded.equals(want));
      },
    ),
    { numRuns: 60 },
  );
});
