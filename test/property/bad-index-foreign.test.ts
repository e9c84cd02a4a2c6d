import assert from "node:assert/strict";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { type Outcome, outcomeOf } from "../support/image-outcome.js";
import { type LayerFixture, makeLayerFixture, openFixtureLayer } from "../support/layer-fixture.js";
import { writeLayout } from "../support/layout.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";
import { tempDirectory } from "../support/temp.js";

/**
 * An index of another tool: no JSON, no digests. What binds a zinfo to its blob then is the chain of windows, each of which
 * must be what the span before it ends with.
 */
interface Attempt {
  readonly fixture: LayerFixture;
  readonly zinfo: Buffer;
  readonly tarindex: Buffer;
  try(changed: { zinfo?: Uint8Array; tarindex?: Uint8Array; blob?: Uint8Array }, what: string): Promise<Outcome>;
}

async function setUp(t: TestContext): Promise<Attempt> {
  const fixture = await makeLayerFixture(t, { files: { small: 1000, big: 260_000, last: 9000 } });
  const layout = await tempDirectory(t);
  await writeLayout(layout, [{ layers: [{ bytes: fixture.gz, mediaType: mediaTypes.ociLayerGzip }] }]);
  const blobPath = join(layout, "blobs", "sha256", hexOf(digestOfBytes(fixture.gz)));
  const zinfoPath = join(layout, "foreign.zinfo");
  const tarindexPath = join(layout, "foreign.tarindex");
  const zinfo = await readFile(fixture.index.zinfoPath);
  const tarindex = await readFile(fixture.index.tarindexPath);
  let variant = 0;
  const attempt: Attempt["try"] = async (changed, what) => {
    const cacheDir = join(fixture.directory, `cache-${variant++}`);
    await writeFile(zinfoPath, changed.zinfo ?? zinfo);
    await writeFile(tarindexPath, changed.tarindex ?? tarindex);
    await writeFile(blobPath, changed.blob ?? fixture.gz);
    const options = { source: `oci:${layout}`, cacheDir, tarindex: tarindexPath, zinfo: zinfoPath };
    try {
      return await outcomeOf(options, fixture.files, what);
    } finally {
      await rm(cacheDir, { recursive: true, force: true });
    }
  };
  return { fixture, zinfo, tarindex, try: attempt };
}

const headerBytes = 12;
const fieldsBytes = 17;
const recordBytes = fieldsBytes + 32_768;

function flipped(bytes: Buffer, at: number, bit: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ (1 << bit);
  return copy;
}

test("untouched, everything is right", async (t) => {
  const attempt = await setUp(t);
  assert.equal(await attempt.try({}, "untouched"), "right");
});

test("no flipped bit of a zinfo's table gives wrong bytes", async (t) => {
  const attempt = await setUp(t);
  const count = attempt.zinfo.readUInt32LE(0);
  assert.ok(count >= 4, `${count} checkpoints`);
  const places = Array.from({ length: headerBytes }, (_, i) => i);
  for (let record = 0; record < count; record++) {
    for (let i = 0; i < fieldsBytes; i++) places.push(headerBytes + record * recordBytes + i);
  }
  for (const at of places) {
    for (let bit = at % 2; bit < 8; bit += 2) {
      await attempt.try({ zinfo: flipped(attempt.zinfo, at, bit) }, `zinfo byte ${at} bit ${bit}`);
    }
  }
});

test("no flipped bit of a window gives wrong bytes", async (t) => {
  const attempt = await setUp(t);
  const count = attempt.zinfo.readUInt32LE(0);
  for (let record = 1; record < count; record++) {
    const window = headerBytes + record * recordBytes + fieldsBytes;
    for (let i = 0; i < 32_768; i += 2039) {
      const at = window + i;
      const outcome = await attempt.try({ zinfo: flipped(attempt.zinfo, at, at % 8) }, `window byte ${at}`);
      assert.equal(outcome, "unreadable", `window byte ${at}`);
    }
  }
});

test("a zinfo that is cut short, too long, or of another layer never gives wrong bytes", async (t) => {
  const attempt = await setUp(t);
  const { zinfo } = attempt;
  for (const length of [0, 11, 12, 13, 29, headerBytes + recordBytes - 1, zinfo.length - 1]) {
    assert.equal(await attempt.try({ zinfo: zinfo.subarray(0, length) }, `zinfo of ${length} bytes`), "refused");
  }
  assert.equal(await attempt.try({ zinfo: Buffer.concat([zinfo, Buffer.alloc(1)]) }, "zinfo too long"), "refused");
  const fewer = Buffer.from(zinfo.subarray(0, zinfo.length - recordBytes));
  fewer.writeUInt32LE(zinfo.readUInt32LE(0) - 1, 0);
  assert.equal(await attempt.try({ zinfo: fewer }, "zinfo without its last checkpoint"), "right");
  const other = await makeLayerFixture(t, { files: { small: 1000, big: 260_000, last: 9000 }, seed: 1 });
  const outcome = await attempt.try({ zinfo: await readFile(other.index.zinfoPath) }, "zinfo of another layer");
  assert.notEqual(outcome, "right");
});

test("a tarindex that is damaged is refused or answers inside its bounds", async (t) => {
  // Without digests nobody can tell a damaged name or size from a real one: only that nothing breaks is promised.
  const attempt = await setUp(t);
  for (let at = 1024; at < attempt.tarindex.length; at += 27) {
    const options = { tarindex: flipped(attempt.tarindex, at, at % 8) };
    await attempt.try(options, `tarindex byte ${at}`).catch((error: unknown) => {
      if (!(error instanceof assert.AssertionError && /has wrong bytes/.test(error.message))) throw error;
    });
  }
  for (const length of [0, 1, 1024, 1100, 1151, 1152, 1280, 2048, attempt.tarindex.length - 1]) {
    const tarindex = attempt.tarindex.subarray(0, length);
    assert.equal(await attempt.try({ tarindex }, `tarindex of ${length} bytes`), "refused");
  }
});

test("a flipped bit of the blob is found at the latest when all of it has been fetched", async (t) => {
  // Up to then a changed literal far from the next window cannot be told from a right one.
  const { fixture } = await setUp(t);
  let foundAtTheEnd = 0;
  for (let at = 4; at < fixture.gz.length; at += 4999) {
    const blob = flipped(fixture.gz, at, at % 8);
    const checked = deferred();
    await using layer = await openFixtureLayer(fixture, {
      cacheDir: join(fixture.directory, `cache-${at}`),
      source: new MemoryBlob(blob, fixture.index.manifest.blob.digest),
      foreign: true,
      say: (line) => /not served any more/.test(line) && checked.resolve(),
    });
    let failed = 0;
    for (let offset = 0; offset < layer.device.sizeBytes; offset += 20_000) {
      await layer.device.read(offset, 20_000).catch((error: unknown) => {
        assert.ok(error instanceof OcifsError, `blob byte ${at}: ${String(error)}`);
        failed++;
      });
    }
    // What does not decode is thrown away, so the blob may never be complete; then its reads have failed.
    if (failed === 0) await checked.promise;
    if (layer.stats().problem === undefined) continue;
    foundAtTheEnd++;
    await assert.rejects(layer.device.read(0, 1), { code: "mismatch" }, `blob byte ${at}`);
  }
  assert.ok(foundAtTheEnd > 0, "every change showed while decoding");
});
