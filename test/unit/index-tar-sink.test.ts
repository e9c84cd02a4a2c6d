/** The uncompressed bytes that an index pass hands out on its way. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { OcifsError } from "../../src/base/errors.js";
import { createLayerIndex, type TarSink } from "../../src/index/create.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { rejectsWith } from "../support/errors.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { buildTar } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";

// Several of the pass' buffers of 2 MiB, and bytes behind the archive's end.
const tar = Buffer.concat([
  buildTar(Array.from({ length: 9 }, (_, i) => ({ path: `f/${i}`, data: randomBytes(1_000_003) }))),
  Buffer.alloc(5000, 7),
]);

async function create(t: TestContext, blob: Uint8Array, tarSink: TarSink) {
  const directory = join(await tempDirectory(t), "index");
  return { directory, made: createLayerIndex({ source: new MemoryBlob(blob), output: { directory }, tarSink }) };
}

for (const [what, blob] of [
  ["gzip", gzipSync(tar, { level: 1 })],
  ["gzip of two members", Buffer.concat([gzipSync(tar.subarray(0, 3_333_333)), gzipSync(tar.subarray(3_333_333))])],
  ["plain tar", tar],
] as const) {
  test(`${what}: the sink gets every byte once, in order, and may take its time`, async (t) => {
    const pieces: Buffer[] = [];
    let at = 0;
    let busy = false;
    const { made } = await create(t, blob, async (bytes, offset) => {
      assert.equal(busy, false, "one piece at a time");
      busy = true;
      assert.equal(offset, at);
      at += bytes.length;
      const before = Buffer.from(bytes);
      for (let i = 0; i < 20; i++) await turn();
      assert.ok(before.equals(bytes), "its bytes stay until it is done");
      pieces.push(before);
      busy = false;
    });
    const { manifest } = await made;
    assert.equal(manifest.tar.digest, digestOfBytes(tar));
    assert.ok(Buffer.concat(pieces).equals(tar));
  });
}

test("a sink that fails ends the pass, and no index is left", async (t) => {
  let calls = 0;
  const { directory, made } = await create(t, gzipSync(tar, { level: 1 }), async () => {
    calls += 1;
    await turn();
    if (calls === 2) throw new OcifsError("no-space", "the sink is full");
  });
  assert.match((await rejectsWith(made, "no-space")).message, /the sink is full/);
  assert.equal(calls, 2);
  assert.deepEqual(await readdir(directory), []);
});

test("a tar that is refused waits for the sink", async (t) => {
  let taking = 0;
  const { made } = await create(t, gzipSync(Buffer.alloc(5 << 20, 0x41)), async () => {
    taking += 1;
    for (let i = 0; i < 20; i++) await turn();
    taking -= 1;
  });
  await rejectsWith(made, "corrupt");
  assert.equal(taking, 0);
});
