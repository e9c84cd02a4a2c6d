import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { readdir, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import type { OpenLayer } from "../../src/layer/open-layer.js";
import { hexOf } from "../../src/oci/digest.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture, openFixtureLayer } from "../support/layer-fixture.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { programLine } from "../support/mounted-image.js";

const run = promisify(execFile);

const KIB = 1 << 10;
const MIB = 1 << 20;

/** What du(1) says of the whole directory, itself included. */
function diskUsage(path: string): number {
  return Number(execFileSync("du", ["-s", "-B1", path], { encoding: "utf8" }).split("\t")[0]);
}

interface Limited {
  readonly layer: OpenLayer;
  readonly blob: MemoryBlob;
  readonly lines: string[];
  /** Takes a sample; fails when it is over the limit. */
  sample(): void;
  readonly samples: number[];
}

async function openLimited(t: TestContext, fixture: LayerFixture, limitBytes: number): Promise<Limited> {
  const cacheDir = join(fixture.directory, "cache");
  const blob = new MemoryBlob(fixture.gz);
  const lines: string[] = [];
  const samples: number[] = [];
  const sample = () => {
    const bytes = diskUsage(cacheDir);
    samples.push(bytes);
    assert.ok(bytes <= limitBytes, `${bytes} bytes with a limit of ${limitBytes}`);
  };
  let chunks = 0;
  blob.beforeChunk = async () => {
    if (chunks++ % 16 === 0) sample();
  };
  const layer = await openFixtureLayer(fixture, {
    cacheDir,
    source: blob,
    limitBytes,
    say: (line) => lines.push(line),
  });
  t.after(() => layer[Symbol.asyncDispose]());
  return { layer, blob, lines, sample, samples };
}

async function checkRead(layer: OpenLayer, fixture: LayerFixture, at: number, length: number): Promise<void> {
  const got = await layer.device.read(at, length);
  assert.ok(Buffer.from(got).equals(fixture.tar.subarray(at, at + got.length)), `bytes [${at}, +${length})`);
  assert.equal(got.length, Math.min(length, fixture.tar.length - at));
}

const big = { files: { big: 12 * MIB }, random: true, spanSizeBytes: 256 * KIB };

for (const limitBytes of [MIB, 4 * MIB]) {
  test(`a layer of 12 MiB read from end to end, twice, in ${limitBytes / MIB} MiB of cache`, async (t) => {
    const fixture = await makeLayerFixture(t, big);
    const { layer, sample, blob, samples } = await openLimited(t, fixture, limitBytes);
    for (let round = 0; round < 2; round++) {
      for (let at = 0; at < fixture.tar.length; at += 128 * KIB) {
        await checkRead(layer, fixture, at, 128 * KIB);
        if (at % MIB === 0) sample();
      }
    }
    assert.equal(layer.stats().problem, undefined);
    assert.ok(Math.max(...samples) > limitBytes / 2, `${Math.max(...samples)} bytes at most`);
    // Each round fetches everything once, save what a request brought too much.
    assert.ok(blob.delivered < 3 * fixture.gz.length, `${blob.delivered} bytes fetched of ${fixture.gz.length}`);
  });
}

for (const limitBytes of [256 * KIB, 3 * MIB]) {
  test(`many readers at once anywhere in a layer of 12 MiB, in ${limitBytes / KIB} KiB of cache`, async (t) => {
    const fixture = await makeLayerFixture(t, big);
    const { layer, sample, blob, samples } = await openLimited(t, fixture, limitBytes);
    const readers = Array.from({ length: 8 }, async (_, reader) => {
      for (let n = 0; n < 20; n++) {
        await checkRead(layer, fixture, ((reader * 20 + n) * 2_654_435_761) % fixture.tar.length, 100_000);
        sample();
      }
    });
    await Promise.all(readers);
    assert.equal(layer.stats().problem, undefined);
    // The room is used, not avoided.
    assert.ok(Math.max(...samples) > limitBytes / 2, `${Math.max(...samples)} bytes at most`);
    assert.ok(blob.delivered > 0);
  });
}

test("a layer that its cache has room for is fetched once, and compressed bytes go first", async (t) => {
  const fixture = await makeLayerFixture(t, big);
  // Both files take up 24 MiB.
  const { layer, blob } = await openLimited(t, fixture, 16 * MIB);
  for (let round = 0; round < 3; round++) {
    for (let at = 0; at < fixture.tar.length; at += MIB) await checkRead(layer, fixture, at, MIB);
  }
  assert.equal(blob.delivered, fixture.gz.length);
  const { cachedSpans, spans, cachedBytes } = layer.stats();
  assert.equal(cachedSpans, spans);
  assert.ok(cachedBytes < fixture.gz.length / 2, `${cachedBytes} compressed bytes are left`);
});

test("what was read last stays", async (t) => {
  const fixture = await makeLayerFixture(t, big);
  const { layer, blob } = await openLimited(t, fixture, 6 * MIB);
  const hot = () => checkRead(layer, fixture, 5 * MIB, MIB);
  // Random content: the blob's bytes lie where the tar's do. What is fetched ahead of the other reads is no matter.
  const middle = 5.5 * MIB;
  const fetchesOfHot = () => blob.requests.filter((r) => r.offset <= middle && middle < r.offset + r.length).length;
  await hot();
  for (let at = 0; at < fixture.tar.length; at += MIB) {
    await checkRead(layer, fixture, at, MIB);
    await hot();
    assert.equal(fetchesOfHot(), 1, `the hot part was gone at ${at}`);
  }
});

test("blobs that nobody uses go before those in use, oldest first, and pinned ones stay", async (t) => {
  const fixtures: LayerFixture[] = [];
  for (let seed = 0; seed < 4; seed++) {
    fixtures.push(
      await makeLayerFixture(t, { files: { file: 3 * MIB }, random: true, seed, spanSizeBytes: 256 * KIB }),
    );
  }
  const [first, second, third, fourth] = fixtures;
  assert.ok(first && second && third && fourth);
  const cacheDir = join(first.directory, "cache");
  const read = async (fixture: LayerFixture, limitBytes?: number) => {
    const source = new MemoryBlob(fixture.gz);
    const layer = await openFixtureLayer(fixture, { cacheDir, source, ...(limitBytes ? { limitBytes } : {}) });
    await using _ = layer;
    await checkRead(layer, fixture, 0, fixture.tar.length);
    return source.delivered;
  };
  for (const fixture of [first, second, third]) assert.ok((await read(fixture)) > 0);
  const path = (fixture: LayerFixture) => join(cacheDir, "blobs", "sha256", hexOf(fixture.index.manifest.blob.digest));
  // In the order of their use, whatever the clock's resolution.
  for (const [age, fixture] of [third, second, first].entries()) {
    await utimes(join(path(fixture), "use"), 1e9 - age * 1000, 1e9 - age * 1000);
  }
  await writeFile(join(path(first), "pinned"), "");
  // 18 MiB are there. The first is pinned; the second gives way, all of it, and of the third the compressed bytes.
  assert.ok((await read(fourth, 17 * MIB)) > 0);
  assert.ok(diskUsage(cacheDir) <= 17 * MIB);
  assert.deepEqual(
    (await readdir(join(cacheDir, "blobs", "sha256"))).sort(),
    [first, third, fourth].map((fixture) => hexOf(fixture.index.manifest.blob.digest)).sort(),
  );
  assert.ok((await readdir(path(first))).includes("compressed"));
  assert.equal(await read(third), 0, "its decoded bytes are there");
});

test("processes that share a cache keep to the limit of one of them", async (t) => {
  const fixture = await makeLayerFixture(t, {
    files: { one: 5 * MIB, two: 5 * MIB },
    random: true,
    spanSizeBytes: 256 * KIB,
  });
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  const directory = join(fixture.directory, "cache");
  const limitBytes = 3 * MIB;
  await using cache = await CacheDirectory.open(directory, { limitBytes });
  assert.equal(cache.unusable, undefined);
  let samples = 0;
  server.fault = (request, response) => {
    samples++;
    assert.ok(diskUsage(directory) <= limitBytes, `${diskUsage(directory)} bytes`);
    server.serveLayer(request, response);
  };
  const { tarindexPath, zinfoPath } = fixture.index;
  const cat = async (name: string) => {
    const args = ["cat", server.reference, name, "--insecure", "--cachedir", directory];
    const { stdout } = await run(
      process.execPath,
      [...programLine("ocifs").slice(1), ...args, "--tarindex", tarindexPath, "--zinfo", zinfoPath],
      { encoding: "buffer", maxBuffer: 64 * MIB },
    );
    assert.ok(fixture.files.get(name)?.equals(stdout), `${name}: wrong bytes`);
  };
  await Promise.all(["one", "two", "one", "two"].map(cat));
  assert.ok(samples > 0);
  assert.ok(diskUsage(directory) <= limitBytes);
});
