import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, rm, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { fetchSizes } from "../../src/layer/fetch-sizes.js";
import type { OpenLayer } from "../../src/layer/open-layer.js";
import { type LayerFixture, makeLayerFixture, openFixtureLayer } from "../support/layer-fixture.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { memoryFileBytes } from "../support/open-files.js";
import { requireRootAndFuse } from "../support/requires.js";

const run = promisify(execFile);
const MIB = 1 << 20;

/** A file system of its own, gone before the fixture's directory is removed. */
async function withFileSystem(
  fixture: LayerFixture,
  type: string,
  options: string,
  use: (path: string) => Promise<void>,
): Promise<void> {
  const path = join(fixture.directory, "fs");
  await mkdir(path);
  await run("mount", ["-t", type, "-o", options, "none", path]);
  try {
    await use(path);
  } finally {
    await run("umount", [path]);
    await rmdir(path);
  }
}

async function open(fixture: LayerFixture, cacheDir: string) {
  const lines: string[] = [];
  const source = new MemoryBlob(fixture.gz);
  source.chunkBytes = 256 << 10;
  const layer = await openFixtureLayer(fixture, { cacheDir, source, say: (line) => lines.push(line) });
  return { layer, lines, source };
}

async function checkAll(layer: OpenLayer, fixture: LayerFixture): Promise<void> {
  for (let at = 0; at < fixture.tar.length; at += MIB) {
    const got = await layer.device.read(at, MIB);
    assert.ok(fixture.tar.subarray(at, at + MIB).equals(Buffer.from(got)), `bytes at ${at}`);
  }
}

async function bigFixture(t: TestContext, mib: number): Promise<LayerFixture> {
  return await makeLayerFixture(t, { files: { big: mib * MIB }, random: true, spanSizeBytes: MIB });
}

// 12 MiB are the layer; the compressed file and the data file fill these up at different places.
for (const size of ["2m", "14m", "18m"]) {
  test(`a disk of ${size} that fills up: reads go on, and it is told`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const fixture = await bigFixture(t, 12);
    await withFileSystem(fixture, "tmpfs", `size=${size}`, async (path) => {
      const { layer, lines } = await open(fixture, join(path, "cache"));
      await using _ = layer;
      await checkAll(layer, fixture);
      await checkAll(layer, fixture);
      assert.match(layer.stats().problem?.sentence ?? "none", /^no disk cache: .*(no space left on device)/i);
      const warnings = lines.filter((line) => line.startsWith("warn"));
      assert.equal(warnings.length, 1, warnings.join("\n"));
    });
  });
}

test("a disk that was full is used again once it has room", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const fixture = await bigFixture(t, 6);
  await withFileSystem(fixture, "tmpfs", "size=24m", async (path) => {
    const ballast = join(path, "ballast");
    await writeFile(ballast, Buffer.alloc(20 * MIB));
    let resolve = (): void => undefined;
    const back = new Promise<void>((done) => {
      resolve = done;
    });
    const say = (line: string) => /can be written again/.test(line) && resolve();
    const source = new MemoryBlob(fixture.gz);
    const cacheDir = join(path, "cache");
    const layer = await openFixtureLayer(fixture, { cacheDir, source, say, diskLookMs: 10 });
    await using _ = layer;
    await checkAll(layer, fixture);
    const { problem } = layer.stats();
    assert.match(problem?.sentence ?? "none", /^no disk cache: /);
    assert.ok(problem && problem.since.getTime() <= Date.now());
    await rm(ballast);
    await back;
    assert.deepEqual([layer.stats().problem, layer.stats().cache], [undefined, "disk"]);
    await checkAll(layer, fixture);
    const { dataSpans, spans } = layer.store.stats();
    assert.equal(dataSpans, spans, "what was kept in memory is on disk now");
    assert.equal(layer.stats().problem, undefined);
  });
});

test("a cache on a read-only file system", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const fixture = await bigFixture(t, 4);
  await withFileSystem(fixture, "tmpfs", "size=20m", async (path) => {
    const other = join(fixture.directory, "bind");
    await mkdir(other);
    await mkdir(join(path, "cache"));
    await run("mount", ["--bind", path, other]);
    try {
      await run("mount", ["-o", "remount,bind,ro", other]);
      const { layer, lines } = await open(fixture, join(other, "cache"));
      await using _ = layer;
      await checkAll(layer, fixture);
      assert.equal(layer.stats().cache, "memory");
      assert.match(layer.stats().problem?.sentence ?? "none", /^no disk cache: .*(read-only|EROFS)/i);
      assert.equal(lines.filter((line) => line.startsWith("warn")).length, 1);
    } finally {
      await run("umount", [other]);
    }
  });
});

test("a file system that does not keep holes is not used for a cache", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const fixture = await makeLayerFixture(t);
  await withFileSystem(fixture, "ramfs", "mode=700", async (path) => {
    const cache = await CacheDirectory.open(join(path, "cache"));
    assert.match(cache.unusable ?? "usable", /does not track holes|not supported/);
    const { layer } = await open(fixture, join(path, "cache"));
    await using _ = layer;
    await checkAll(layer, fixture);
    assert.equal(layer.stats().cache, "memory");
  });
});

test("without a disk a layer larger than the memory for it is read right, in bounded memory", async (t) => {
  const fixture = await bigFixture(t, 56);
  const { layer } = await open(fixture, "/proc/nothing");
  await using _ = layer;
  const readers = Array.from({ length: 8 }, async (_, i) => {
    for (let n = 0; n < 12; n++) {
      const at = ((i * 12 + n) * 2_654_435_761) % (fixture.tar.length - 100_000);
      const got = await layer.device.read(at, 100_000);
      assert.ok(fixture.tar.subarray(at, at + 100_000).equals(Buffer.from(got)), `bytes at ${at}`);
      // Compressed and uncompressed bytes each have this much; what is on its way comes on top.
      assert.ok(memoryFileBytes() <= 2 * fetchSizes.memoryBytes + 16 * MIB, `${memoryFileBytes()} bytes`);
    }
  });
  await Promise.all(readers);
  await checkAll(layer, fixture);
});
