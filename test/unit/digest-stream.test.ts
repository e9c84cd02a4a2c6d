import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { openSha256 } from "../../src/native/sha256.js";
import { digestOfReads, openDigestStream } from "../../src/oci/digest-stream.js";
import { rejectsWith } from "../support/errors.js";
import { noise } from "../support/semantics-tree.js";

const bytes = noise(100_000, 5);

for (const algorithm of ["sha256", "sha512"] as const) {
  const want = `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;

  test(`${algorithm} of pieces of any size is that of the whole`, async () => {
    const stream = openDigestStream(algorithm);
    for (let at = 0, size = 0; at < bytes.length; at += size, size = (size * 7 + 1) % 9_973) {
      await stream.update(bytes.subarray(at, at + size));
    }
    assert.equal(stream.finish(), want);
  });

  test(`${algorithm} of reads that come while the last bytes are hashed`, async () => {
    const positions: number[] = [];
    const found = await digestOfReads(algorithm, async (position) => {
      positions.push(position);
      return bytes.subarray(position, position + 40_000);
    });
    assert.deepEqual(found, { digest: want, sizeBytes: bytes.length });
    assert.deepEqual(positions, [0, 40_000, 80_000, 100_000]);
  });
}

test("of nothing it is the digest of no bytes", async () => {
  const { digest, sizeBytes } = await digestOfReads("sha256", async () => new Uint8Array(0));
  assert.equal(digest, `sha256:${createHash("sha256").digest("hex")}`);
  assert.equal(sizeBytes, 0);
});

test("a read that fails is what is thrown, once the hash is done with the bytes before it", async () => {
  const failing = digestOfReads("sha256", async (position) => {
    if (position > 0) throw new Error("cannot read on");
    return bytes;
  });
  await assert.rejects(failing, /cannot read on/);
});

test("a second update while one runs, a digest then, and anything but bytes are refused", async () => {
  const stream = openSha256();
  const running = stream.update(bytes);
  await rejectsWith(stream.update(bytes), "usage");
  assert.throws(() => stream.digest(), { code: "usage" });
  await running;
  await rejectsWith(stream.update("text" as unknown as Uint8Array), "usage");
  assert.equal(Buffer.from(stream.digest()).toString("hex"), createHash("sha256").update(bytes).digest("hex"));
  assert.equal(Buffer.from(stream.digest()).toString("hex"), createHash("sha256").digest("hex"), "it starts anew");
});
