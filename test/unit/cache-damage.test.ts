import assert from "node:assert/strict";
import { open, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { hexOf } from "../../src/oci/digest.js";
import {
  type LayerFixture,
  makeLayerFixture,
  type OpenFixtureOptions,
  openFixtureLayer,
} from "../support/layer-fixture.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { openFiles } from "../support/open-files.js";

/** Offsets in the header of `spans`; docs/FORMATS.md. */
const BOOT_ID_OFFSET = 32;
const FLAGS_OFFSET = 48;

interface Used {
  readonly fixture: LayerFixture;
  readonly cacheDir: string;
  /** Of the blob's directory in the cache. */
  path(prefix: string): Promise<string>;
  /** Opens the layer again, reads all of it and checks; what was requested of the source and said meanwhile. */
  readAll(options?: Partial<OpenFixtureOptions>): Promise<{ blob: MemoryBlob; lines: string[]; problem?: string }>;
}

/** A cache that has the whole layer. */
async function fillCache(t: TestContext, options: Partial<OpenFixtureOptions> = {}): Promise<Used> {
  const fixture = await makeLayerFixture(t);
  const cacheDir = join(fixture.directory, "cache");
  const blobDir = join(cacheDir, "blobs", "sha256", hexOf(fixture.index.manifest.blob.digest));
  const used: Used = {
    fixture,
    cacheDir,
    path: async (prefix) => {
      const name = (await readdir(blobDir)).find((each) => each.startsWith(prefix));
      return join(blobDir, name ?? assert.fail(`no ${prefix} in ${blobDir}`));
    },
    readAll: async (more = {}) => {
      const blob = new MemoryBlob(fixture.gz);
      const lines: string[] = [];
      const say = (line: string) => void lines.push(line);
      await using layer = await openFixtureLayer(fixture, { cacheDir, source: blob, say, ...options, ...more });
      const got = await layer.device.read(0, layer.device.sizeBytes);
      assert.ok(fixture.tar.subarray(0, got.length).equals(Buffer.from(got)), "wrong bytes");
      const problem = layer.stats().problem?.sentence;
      return { blob, lines, ...(problem === undefined ? {} : { problem }) };
    },
  };
  assert.ok((await used.readAll()).blob.requests.length > 0);
  return used;
}

async function patch(path: string, changes: readonly (readonly [offset: number, bytes: Uint8Array])[]): Promise<void> {
  await using file = await open(path, "r+");
  for (const [offset, bytes] of changes) await file.write(bytes, 0, bytes.length, offset);
}

async function flip(path: string, offset: number): Promise<void> {
  const bytes = await readFile(path);
  await patch(path, [[offset, Uint8Array.of((bytes[offset] ?? 0) ^ 0x20)]]);
}

test("a full cache needs no source, also after a restart", async (t) => {
  const used = await fillCache(t);
  assert.equal((await used.readAll()).blob.requests.length, 0);
});

for (const foreign of [false, true]) {
  test(`changed bytes of the compressed file are noticed and fetched again${foreign ? ", by windows only" : ""}`, async (t) => {
    const used = await fillCache(t, { foreign, checkBlob: false });
    const compressed = await used.path("compressed");
    // What was decoded goes, so that the damaged bytes are needed.
    await rm(await used.path("data"));
    await rm(await used.path("spans"));
    const { length } = used.fixture.gz;
    if (foreign) await patch(compressed, [[length >> 1, Buffer.alloc(3000)]]);
    else for (let at = 10_000; at < length; at += 50_000) await flip(compressed, at);
    const { blob, lines } = await used.readAll();
    assert.ok(blob.requests.length > 0, "nothing was fetched again");
    assert.ok(lines.some((line) => line.startsWith("warn: cached bytes are wrong")));
    // What was thrown away with the damage and is not needed any more may stay missing.
    const now = await readFile(compressed);
    await using file = await CompressedFile.open(compressed, length);
    for (const { begin, end } of file.missing({ begin: 0, end: length })) {
      used.fixture.gz.subarray(begin, end).copy(now, begin);
    }
    assert.ok(used.fixture.gz.equals(now));
  });
}

test("bytes that change under a present span are served as they are", async (t) => {
  // The warm path checks no digests: whoever can write to the cache (0700, root's) can change what is read.
  const used = await fillCache(t);
  await flip(await used.path("data"), 100_000);
  await assert.rejects(used.readAll(), /wrong bytes/);
});

test("after an unclean reboot every span is checked before it is used", async (t) => {
  const used = await fillCache(t);
  const data = await used.path("data");
  await patch(await used.path("spans"), [
    [BOOT_ID_OFFSET, Buffer.alloc(16, 7)],
    [FLAGS_OFFSET, Buffer.alloc(4)],
  ]);
  // Pages that never reached the disk.
  await patch(data, [
    [0, Buffer.alloc(5000)],
    [200_000, Buffer.alloc(70_000)],
  ]);
  const { blob, lines } = await used.readAll();
  assert.equal(blob.requests.length, 0, "the compressed bytes were still there");
  assert.deepEqual(
    lines.filter((line) => !line.startsWith("info")),
    [],
  );
  assert.ok(used.fixture.tar.equals(await readFile(data)));
});

test("after an unclean reboot spans without digests are decoded again", async (t) => {
  const used = await fillCache(t, { foreign: true });
  await patch(await used.path("spans"), [
    [BOOT_ID_OFFSET, Buffer.alloc(16, 7)],
    [FLAGS_OFFSET, Buffer.alloc(4)],
  ]);
  await patch(await used.path("data"), [[0, Buffer.alloc(200_000)]]);
  assert.equal((await used.readAll()).blob.requests.length, 0);
});

test("a clean reboot trusts what is there", async (t) => {
  const used = await fillCache(t, { foreign: true });
  const spans = await used.path("spans");
  await patch(spans, [[BOOT_ID_OFFSET, Buffer.alloc(16, 7)]]);
  await rm(await used.path("compressed"));
  assert.equal((await used.readAll()).blob.requests.length, 0);
});

test("a cache file of another size or kind costs the cache, not the reads", async (t) => {
  const used = await fillCache(t);
  const { length } = used.fixture.gz;
  const cases: [string, (path: string) => Promise<void>, RegExp][] = [
    ["compressed", (path) => truncate(path, length - 1), /no disk cache: cache file .*compressed: it has \d+ bytes/],
    ["spans", (path) => truncate(path, 4097), /no disk cache: span states: the file has 4097 bytes/],
    ["spans", (path) => writeFile(path, Buffer.alloc(4104, 0x41)), /no disk cache: span states/],
  ];
  for (const [prefix, damage, message] of cases) {
    const path = await used.path(prefix);
    const before = await readFile(path);
    await damage(path);
    const { problem, blob } = await used.readAll();
    assert.match(problem ?? "none", message);
    assert.ok(blob.requests.length > 0);
    await writeFile(path, before);
  }
});

test("closing gives every descriptor back", async (t) => {
  const used = await fillCache(t);
  const before = openFiles();
  for (let i = 0; i < 5; i++) {
    await used.readAll();
    await used.readAll({ cacheDir: "/proc/nothing" });
  }
  assert.deepEqual(openFiles(), before);
});
