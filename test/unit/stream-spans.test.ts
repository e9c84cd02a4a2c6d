import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { silentLog } from "../../src/base/log.js";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { createLayerIndex } from "../../src/index/create.js";
import { EqualSpanTable } from "../../src/layer/equal-span-table.js";
import { OpenLayer } from "../../src/layer/open-layer.js";
import { rejectsWith } from "../support/errors.js";
import { contentOf } from "../support/layer-fixture.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";

import { buildTar } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";

const SPAN = 64 << 10;
const tar = buildTar(["a", "b", "c"].map((path) => ({ path, data: contentOf(path, 500_000, false) })));
const compress = (bytes: Uint8Array) =>
  execFileSync("zstd", ["-q", "-c", "--check"], { input: bytes, maxBuffer: 64 << 20 });
// As a parallel compressor writes it: several frames, none on a span's border.
const zst = Buffer.concat([tar.subarray(0, 333_333), tar.subarray(333_333)].map(compress));

interface Opened {
  readonly layer: OpenLayer;
  readonly blob: MemoryBlob;
  readonly cacheDir: string;
}

async function open(
  t: TestContext,
  bytes: Uint8Array = zst,
  blob = new MemoryBlob(bytes),
  checkBlob = true,
): Promise<Opened> {
  const directory = await tempDirectory(t);
  const path = (extension: string) => join(directory, `layer.${extension}`);
  const { manifest, zinfoPath } = await createLayerIndex({
    source: new MemoryBlob(zst),
    output: { tarindexPath: path("tarindex"), zinfoPath: path("zinfo"), jsonPath: path("json") },
    spanSizeBytes: SPAN,
  });
  assert.equal(manifest.blob.encoding, "zstd");
  assert.equal(zinfoPath, undefined);
  const cacheDir = join(directory, "cache");
  const layer = await OpenLayer.open({
    source: blob,
    table: new EqualSpanTable({
      encoding: "zstd",
      blobSizeBytes: bytes.length,
      sizeBytes: manifest.tar.sizeBytes,
      spanBytes: SPAN,
      digests: manifest.spans.digests,
    }),
    cache: await CacheDirectory.open(cacheDir),
    checkWindows: true,
    checkBlob,
    log: silentLog,
  });
  t.after(() => layer[Symbol.asyncDispose]());
  return { layer, blob, cacheDir };
}

async function checkRead(layer: OpenLayer, offset: number, length: number): Promise<void> {
  const got = await layer.device.read(offset, length);
  assert.ok(Buffer.from(got).equals(tar.subarray(offset, offset + length)), `bytes [${offset}, +${length})`);
}

test("an index of a zstd layer describes the same tar as one of gzip would", async (t) => {
  const directory = await tempDirectory(t);
  const make = (name: string, bytes: Uint8Array) =>
    createLayerIndex({ source: new MemoryBlob(bytes), output: { directory: join(directory, name) } });
  const [plain, zstd, skippable] = await Promise.all([
    make("tar", tar),
    make("zstd", zst),
    make("skippable", Buffer.concat([Buffer.from("502a4d1803000000aabbcc", "hex"), zst])),
  ]);
  for (const { manifest } of [zstd, skippable]) {
    assert.equal(manifest.blob.encoding, "zstd");
    assert.deepEqual(manifest.tar, plain.manifest.tar);
    assert.equal(manifest.tarindex.digest, plain.manifest.tarindex.digest);
    assert.deepEqual(manifest.spans, plain.manifest.spans);
  }
});

test("one pass, whoever reads what", async (t) => {
  const { layer, blob } = await open(t);
  await Promise.all([1_400_000, 10, 700_000, 800_000].map((at) => checkRead(layer, at, 1000)));
  await checkRead(layer, 0, tar.length);
  assert.equal(blob.delivered, zst.length);
});

test("a reader does not wait for what lies behind its spans", async (t) => {
  // More than one piece is decoded at a time, so that the gate is behind the first.
  const random = buildTar([{ path: "r", data: contentOf("r", 3 << 20, true) }]);
  const bytes = compress(random);
  const directory = await tempDirectory(t);
  const blob = new MemoryBlob(bytes);
  const gate = deferred();
  t.after(() => gate.resolve());
  blob.beforeChunk = (at) => (at >= 2 << 20 ? gate.promise : Promise.resolve());
  const table = new EqualSpanTable({
    encoding: "zstd",
    blobSizeBytes: bytes.length,
    sizeBytes: random.length,
    spanBytes: SPAN,
  });
  const cache = await CacheDirectory.open(directory);
  const layer = await OpenLayer.open({
    source: blob,
    table,
    cache,
    checkWindows: true,
    checkBlob: true,
    log: silentLog,
  });
  t.after(() => layer[Symbol.asyncDispose]());
  assert.ok(Buffer.from(await layer.device.read(1 << 20, 100)).equals(random.subarray(1 << 20, (1 << 20) + 100)));
  assert.ok(blob.delivered <= 2 << 20);
  const later = layer.device.read(random.length - 100, 100);
  gate.resolve();
  assert.ok(Buffer.from(await later).equals(random.subarray(-100)));
});

test("an evicted span comes again, from the cache", async (t) => {
  const { layer, blob } = await open(t);
  await checkRead(layer, 0, tar.length);
  await layer.store.evict(3, 5);
  await checkRead(layer, 0, tar.length);
  assert.equal(blob.delivered, zst.length);
});

test("damage in the cache is fetched again, damage at the source is an error", async (t) => {
  const wrong = Buffer.from(zst);
  wrong.fill(0xa5, 100_000, 100_200);
  const blob = new MemoryBlob(wrong, new MemoryBlob(zst).digest);
  const { layer } = await open(t, wrong, blob, false);
  const error = await layer.device.read(1_000_000, 100).then(
    () => undefined,
    (e: unknown) => e,
  );
  assert.ok(error instanceof Error && /zstd|span/.test(error.message), String(error));
  assert.ok(blob.delivered > wrong.length, "asked once more");
  // The source is well again.
  zst.copy(wrong);
  await checkRead(layer, 0, tar.length);
});

test("a blob that ends early, and one of fewer bytes than the index says", async (t) => {
  const cut = zst.subarray(0, zst.length - 1000);
  await rejectsWith((await open(t, cut)).layer.device.read(tar.length - 10, 10), "corrupt");
  const short = compress(tar.subarray(0, tar.length - SPAN));
  await rejectsWith((await open(t, short)).layer.device.read(tar.length - 10, 10), "corrupt");
});

test("closing ends those who wait", async (t) => {
  const blob = new MemoryBlob(zst);
  const started = deferred();
  blob.beforeChunk = (_, { signal }) =>
    new Promise((_resolve, reject) => {
      started.resolve();
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  const { layer } = await open(t, zst, blob);
  const reading = rejectsWith(layer.device.read(0, 10), "aborted");
  await started.promise;
  await layer[Symbol.asyncDispose]();
  await reading;
});
