/** One layer's index built from its blob: what is kept on the way, and what happens when it cannot be. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import type { Log } from "../../src/base/log.js";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { type CacheRoom, unlimitedRoom } from "../../src/cache/room.js";
import { type BuiltLayer, buildLayer, type LayerBuildOptions } from "../../src/image/layer-build.js";
import { loadIndex } from "../../src/index/load.js";
import { cachedIndex } from "../../src/index/locate.js";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { rejectsWith } from "../support/errors.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { buildTar } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";

const tar = buildTar(Array.from({ length: 30 }, (_, i) => ({ path: `f/${i}`, data: randomBytes(100_000) })));
const gz = gzipSync(tar, { level: 1 });
const diffId = digestOfBytes(tar);

async function setUp(t: TestContext, blob = new MemoryBlob(gz)) {
  const base = await tempDirectory(t);
  const cache = await CacheDirectory.open(join(base, "cache"));
  const privatePath = join(base, "private");
  const warnings: string[] = [];
  const warn = (_: string, fields: Record<string, unknown> = {}) => warnings.push(String(fields.reason));
  const log: Log = { debug: () => undefined, info: () => undefined, warn, error: warn };
  const build = (options: Partial<LayerBuildOptions> = {}): Promise<BuiltLayer> =>
    buildLayer({
      layer: { blob, encoding: "gzip", mediaType: undefined, layerNumber: 0 },
      expectedDiffId: diffId,
      cache,
      privateDirectory: async () => {
        await mkdir(privatePath, { recursive: true });
        return privatePath;
      },
      log,
      onProgress: () => undefined,
      signal: new AbortController().signal,
      ...options,
    });
  const use = await cache.useBlob(blob.digest);
  t.after(() => use[Symbol.asyncDispose]());
  const blobDirectory = use.path;
  const names = async () =>
    (await readdir(blobDirectory))
      .filter((name) => name !== "use")
      .map((name) => name.replace(/-[0-9a-f]{16}$/, ""))
      .sort();
  return { base, cache, blob, blobDirectory, privatePath, warnings, build, names };
}

/** A cache directory whose limit is what the test says. */
function withRoom(cache: CacheDirectory, room: Partial<CacheRoom>): CacheDirectory {
  const useBlob = (digest: Digest) => cache.useBlob(digest);
  return Object.create(cache, { room: { value: { ...unlimitedRoom, ...room } }, useBlob: { value: useBlob } });
}

async function isInCache(cache: CacheDirectory, blob: MemoryBlob): Promise<boolean> {
  const location = await cachedIndex(cache, blob.digest);
  if (!location) return false;
  assert.equal((await loadIndex({ ...location, blobDigest: blob.digest })).verified, true);
  return true;
}

test("one request fills both files and makes the index", async (t) => {
  const { cache, blob, build, names, warnings } = await setUp(t);
  const progress: number[] = [];
  const built = await build({ onProgress: (bytes) => progress.push(bytes) });
  assert.deepEqual(blob.requests, [{ offset: 0, length: gz.length }]);
  assert.deepEqual(built.filled, { blob: true, tar: true });
  assert.deepEqual(await names(), ["compressed", "data", "spans"]);
  assert.equal(await isInCache(cache, blob), true);
  assert.deepEqual(built.index, await loadIndex({ ...built.index, jsonPath: jsonOf(built) }));
  assert.equal(progress.at(-1), gz.length);
  assert.deepEqual(warnings, []);
});

test("what is in the cache is not fetched again", async (t) => {
  const { blob, blobDirectory, build } = await setUp(t);
  {
    await using file = await CompressedFile.open(join(blobDirectory, "compressed"), gz.length);
    for (const [begin, end] of [
      [0, 1 << 20],
      [2 << 20, (2 << 20) + 65536],
    ] as const) {
      await file.writer({ begin, end }).append(gz.subarray(begin, end));
    }
  }
  const built = await build();
  assert.deepEqual(built.filled, { blob: true, tar: true });
  assert.equal(blob.delivered, gz.length - (1 << 20) - 65536);
});

test("a layer without bytes", async (t) => {
  const { cache, blob, build, names } = await setUp(t, new MemoryBlob(Buffer.alloc(0)));
  const built = await build({ expectedDiffId: digestOfBytes(Buffer.alloc(0)) });
  assert.deepEqual(built.filled, { blob: true, tar: false });
  assert.deepEqual(await names(), ["compressed"]);
  assert.equal(await isInCache(cache, blob), true);
});

test("a wrong blob: nothing is kept", async (t) => {
  const { cache, blob, blobDirectory, build, names } = await setUp(t, new MemoryBlob(gz, digestOfBytes(tar)));
  assert.match((await rejectsWith(build(), "mismatch")).message, /all of it was fetched and its digest is/);
  assert.deepEqual(await names(), ["compressed"]);
  await using file = await CompressedFile.open(join(blobDirectory, "compressed"), gz.length);
  assert.equal(file.presentBytes(), 0);
  assert.equal(await isInCache(cache, blob), false);
});

test("a wrong diffID: the blob stays, which is what its digest says, and nothing made of it", async (t) => {
  const { cache, blob, build, names } = await setUp(t);
  const wrong = build({ expectedDiffId: digestOfBytes(gz) });
  assert.match((await rejectsWith(wrong, "mismatch")).message, /the image config wants/);
  assert.deepEqual(await names(), ["compressed"]);
  assert.equal(await isInCache(cache, blob), false);
  assert.deepEqual((await build()).filled, { blob: true, tar: true });
  assert.equal(blob.requests.length, 1);
});

test("cancelled half-way: what came stays for the next time", async (t) => {
  const { blob, build, names } = await setUp(t);
  const controller = new AbortController();
  // The first piece that is indexed is 1 MiB of the blob.
  const cancelled = build({ signal: controller.signal, onProgress: () => controller.abort() });
  await rejectsWith(cancelled, "aborted");
  assert.deepEqual(await names(), ["compressed"]);
  const before = blob.delivered;
  assert.ok(before >= 1 << 20);
  await build();
  // What is less than a block of the cache is not kept.
  assert.ok(blob.delivered <= gz.length + 4096 + blob.chunkBytes, `${blob.delivered} of ${gz.length}`);
});

test("a limit without room for the blob: the index only, straight from the source", async (t) => {
  const { cache, blob, build, names, warnings } = await setUp(t);
  const built = await build({ cache: withRoom(cache, { makeRoom: async () => false }) });
  assert.deepEqual(built.filled, { blob: false, tar: false });
  assert.deepEqual(await names(), ["compressed"]);
  assert.equal(await isInCache(cache, blob), true);
  assert.equal(blob.requests.length, 1);
  assert.deepEqual(warnings, [`its limit leaves no room for ${gz.length} bytes`]);
});

test("a limit with room for the blob only", async (t) => {
  const { cache, blob, build, names } = await setUp(t);
  const built = await build({
    cache: withRoom(cache, {
      reserve: async (bytes) => (bytes <= 1 << 20 ? unlimitedRoom.reserve(bytes) : undefined),
    }),
  });
  assert.deepEqual(built.filled, { blob: true, tar: false });
  assert.deepEqual(await names(), ["compressed"]);
  assert.equal(await isInCache(cache, blob), true);
});

test("a cache file that belongs to something else costs the cache, not the index", async (t) => {
  const { cache, blob, blobDirectory, build, warnings } = await setUp(t);
  await writeFile(join(blobDirectory, "compressed"), "of another size");
  const built = await build();
  assert.deepEqual(built.filled, { blob: false, tar: false });
  assert.equal(await isInCache(cache, blob), true);
  assert.match(warnings.join("\n"), /it has 15 bytes, the blob [0-9]+; remove the file/);
});

test("a cache that cannot be written: the index is made elsewhere", async (t) => {
  const { base, privatePath, build, blob } = await setUp(t);
  await writeFile(join(base, "file"), "");
  const cache = await CacheDirectory.open(join(base, "file", "cache"));
  assert.match(cache.unusable ?? "", /ENOTDIR/);
  const built = await build({ cache });
  assert.deepEqual(built.filled, { blob: false, tar: false });
  assert.ok(built.index.tarindexPath.startsWith(privatePath));
  assert.equal((await readdir(privatePath)).length, 3);
  assert.equal(blob.requests.length, 1);
});

test("indexes that a killed process did not finish are removed", async (t) => {
  const { cache, blob, build } = await setUp(t);
  const directory = cache.indexPath(blob.digest);
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, ".sha256-x.zinfo.0123456789ab.tmp"), "left");
  await build();
  assert.equal((await readdir(directory)).length, 3);
});

function jsonOf({ index }: BuiltLayer): string {
  return index.tarindexPath.replace(/\.tarindex$/, ".json");
}
