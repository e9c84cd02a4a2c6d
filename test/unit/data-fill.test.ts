/** A whole layer's uncompressed bytes on their way into the cache. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { silentLog } from "../../src/base/log.js";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { type CacheRoom, unlimitedRoom } from "../../src/cache/room.js";
import { claimTemporary } from "../../src/cache/temporary-files.js";
import { DataFill } from "../../src/layer/data-fill.js";
import { EqualSpanTable } from "../../src/layer/equal-span-table.js";
import { OpenLayer } from "../../src/layer/open-layer.js";
import { cacheKeyOf } from "../../src/layer/span-table.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { tempDirectory } from "../support/temp.js";

const bytes = randomBytes(300_001);
const tableOf = (sizeBytes: number, spanBytes?: number) =>
  new EqualSpanTable({ encoding: "tar", blobSizeBytes: sizeBytes, sizeBytes, spanBytes });
const table = tableOf(bytes.length, 10_000);
const key = cacheKeyOf(table);

/** Without the file that says that the blob is in use. */
async function namesIn(directory: string): Promise<string[]> {
  return (await readdir(directory)).filter((name) => name !== "use");
}

async function setUp(t: TestContext, room: CacheRoom = unlimitedRoom) {
  const cache = await CacheDirectory.open(await tempDirectory(t));
  const source = new MemoryBlob(bytes);
  const use = await cache.useBlob(source.digest);
  t.after(() => use[Symbol.asyncDispose]());
  const directory = use.path;
  const dropped: string[] = [];
  const begin = () => DataFill.begin({ directory, room, onDropped: (reason) => dropped.push(reason) });
  const openLayer = () => OpenLayer.open({ source, table, cache, checkWindows: true, checkBlob: true, log: silentLog });
  return { directory, source, dropped, begin, openLayer };
}

async function writeAll(fill: DataFill, content: Uint8Array = bytes): Promise<void> {
  for (let at = 0; at < content.length; at += 70_000) await fill.write(content.subarray(at, at + 70_000), at);
}

test("what was written is the layer's data, all of it present", async (t) => {
  const { directory, source, dropped, begin, openLayer } = await setUp(t);
  {
    await using fill = await begin();
    await writeAll(fill);
    assert.match((await namesIn(directory)).join(), /^data-filling-[^,]*$/);
    assert.equal(await fill.keep(table), `data-${key}`);
  }
  assert.deepEqual((await namesIn(directory)).sort(), [`data-${key}`, `spans-${key}`]);
  await using layer = await openLayer();
  assert.deepEqual([layer.stats().cachedSpans, layer.stats().problem], [table.spanCount, undefined]);
  assert.ok(bytes.equals(Buffer.from(await layer.device.read(0, bytes.length))));
  assert.deepEqual(source.requests, []);
  assert.deepEqual(dropped, []);
});

test("what was not kept is gone", async (t) => {
  const { directory, begin } = await setUp(t);
  {
    await using fill = await begin();
    await writeAll(fill);
  }
  assert.deepEqual(await namesIn(directory), []);
});

test("files that another process has put there are not touched", async (t) => {
  const { directory, begin, openLayer } = await setUp(t);
  await using layer = await openLayer();
  await layer.device.read(20_000, 10_000);
  await using fill = await begin();
  await writeAll(fill);
  assert.equal(await fill.keep(table), undefined);
  assert.equal(layer.stats().cachedSpans, 1);
  assert.ok(bytes.equals(Buffer.from(await layer.device.read(0, bytes.length))));
  assert.equal((await readFile(join(directory, `data-${key}`))).length, bytes.length);
});

test("states without their data are left alone, and so the new data counts for what they say", async (t) => {
  const { directory, begin, openLayer } = await setUp(t);
  {
    await using _layer = await openLayer();
  }
  await rm(join(directory, `data-${key}`));
  {
    await using fill = await begin();
    await writeAll(fill);
    assert.equal(await fill.keep(table), undefined);
  }
  await using layer = await openLayer();
  assert.equal(layer.stats().cachedSpans, 0);
  assert.ok(bytes.equals(Buffer.from(await layer.device.read(0, bytes.length))));
});

test("bytes that are not all there, or out of order, are a defect", async (t) => {
  const { begin } = await setUp(t);
  await using fill = await begin();
  await fill.write(bytes.subarray(0, 1000), 0);
  await assert.rejects(fill.keep(table), /1000 bytes, its span table has 300001/);
  await assert.rejects(fill.write(bytes.subarray(0, 1000), 999), /bytes at 999 after 1000/);
});

test("a cache without room: the bytes are dropped, told once, and the pass goes on", async (t) => {
  const asked: number[] = [];
  const room: CacheRoom = {
    ...unlimitedRoom,
    reserve: async (size) => (asked.push(size) < 3 ? unlimitedRoom.reserve(size) : undefined),
  };
  const { directory, dropped, begin } = await setUp(t, room);
  await using fill = await begin();
  const big = Buffer.alloc(48 << 20, 1);
  for (let at = 0; at < big.length; at += 4 << 20) await fill.write(big.subarray(at, at + (4 << 20)), at);
  assert.equal(await fill.keep(table), undefined);
  assert.deepEqual(dropped, ["the cache's limit leaves no room"]);
  // As much as is wanted ahead, and then what is needed.
  assert.equal(asked.length, 4);
  assert.deepEqual(await namesIn(directory), []);
});

test("an empty layer has nothing to keep", async (t) => {
  const { directory, begin } = await setUp(t);
  {
    await using fill = await begin();
    assert.equal(await fill.keep(tableOf(0)), undefined);
  }
  assert.deepEqual(await namesIn(directory), []);
});

test("what a killed process left is removed, what a living one makes is not", async (t) => {
  const { directory, source, begin } = await setUp(t);
  for (const name of ["data-filling-1-dead", "spans-filling-1-dead", "data-0123456789abcdef"]) {
    await writeFile(join(directory, name), "x");
  }
  await using compressed = await CompressedFile.open(join(directory, "compressed"), source.sizeBytes);
  await using living = await open(join(directory, "data-filling-2-living"), "wx+");
  assert.ok(claimTemporary(living.fd));
  await using first = await begin();
  await using second = await begin();
  await writeAll(second);
  await writeAll(first);
  const names = (await namesIn(directory)).filter((name) => name.includes("filling"));
  assert.equal(names.length, 3);
  assert.ok(names.includes("data-filling-2-living"));
  assert.equal(await first.keep(table), `data-${key}`);
  assert.equal(await second.keep(table), undefined);
  assert.ok((await namesIn(directory)).includes("data-0123456789abcdef"));
  assert.equal(compressed.presentBytes(), 0);
});
