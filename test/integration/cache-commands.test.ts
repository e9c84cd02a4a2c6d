import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, open, readdir, readFile, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { type Finished, programLine, runCommand } from "../support/mounted-image.js";

const MIB = 1 << 20;

interface CacheOf {
  readonly path: string;
  readonly fixtures: readonly LayerFixture[];
  ocifs(...args: string[]): Promise<Finished>;
  json(...args: string[]): Promise<{ [key: string]: unknown }>;
  blobPath(fixture: LayerFixture, prefix: string): Promise<string>;
  digest(fixture: LayerFixture): string;
}

/** A cache of several blobs, made by the programs themselves: index and content of each. */
async function makeCache(t: TestContext, count: number): Promise<CacheOf> {
  const fixtures: LayerFixture[] = [];
  for (let seed = 0; seed < count; seed++) {
    fixtures.push(
      await makeLayerFixture(t, { files: { file: 2 * MIB }, random: true, seed, spanSizeBytes: 256 << 10 }),
    );
  }
  const path = join(fixtures[0]?.directory ?? "", "cache");
  const ocifs = (...args: string[]) => runCommand([...programLine("ocifs"), ...args, "--cachedir", path]);
  for (const fixture of fixtures) {
    const blob = join(fixture.directory, "layer.tar.gz");
    await writeFile(blob, fixture.gz);
    for (const args of [
      ["index", "create", `file:${blob}`, "--span", "256K"],
      ["cat", `file:${blob}`, "file"],
    ]) {
      const done = await ocifs(...args);
      assert.equal(done.status, 0, done.stderr);
    }
  }
  const digest = (fixture: LayerFixture) => fixture.index.manifest.blob.digest;
  return {
    path,
    fixtures,
    ocifs,
    digest,
    json: async (...args) => {
      const done = await ocifs(...args, "--json");
      return JSON.parse(done.stdout) as { [key: string]: unknown };
    },
    blobPath: async (fixture, prefix) => {
      const directory = join(path, "blobs", "sha256", hexOf(fixture.index.manifest.blob.digest));
      const name = (await readdir(directory)).find((each) => each.startsWith(prefix) && !each.endsWith(".verified"));
      return join(directory, name ?? assert.fail(`no ${prefix} in ${directory}`));
    },
  };
}

function first<T>(list: readonly T[]): T {
  const [one] = list;
  assert.ok(one !== undefined);
  return one;
}

async function flip(path: string, offset: number): Promise<void> {
  await using file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, offset);
  await file.write(Buffer.of((byte[0] ?? 0) ^ 1), 0, 1, offset);
}

/** Records as a mount leaves them. */
async function recordImage(path: string, fixtures: readonly LayerFixture[], tag: string): Promise<string> {
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: mediaTypes.ociConfig, digest: digestOfBytes(Buffer.from("{}")), size: 2 },
      layers: fixtures.map(({ gz, index }) => ({
        mediaType: mediaTypes.ociLayerGzip,
        digest: index.manifest.blob.digest,
        size: gz.length,
      })),
    }),
  );
  const digest = digestOfBytes(manifest);
  const directory = join(path, "images", "sha256", hexOf(digest));
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, "manifest.json"), manifest);
  await mkdir(join(path, "refs"), { recursive: true });
  const record = { version: 1, registry: "registry.example", repository: "app", tag, platform: "linux/amd64", digest };
  await writeFile(join(path, "refs", `${tag}.json`), JSON.stringify(record));
  return digest;
}

test("du counts what du(1) counts, by kind; ls says what is there", async (t) => {
  const cache = await makeCache(t, 2);
  const du = (await cache.json("cache", "du")) as {
    total: { allocatedBytes: number };
    kinds: Record<string, { allocatedBytes: number; apparentBytes: number }>;
  };
  const want = Number(execFileSync("du", ["-s", "-B1", cache.path], { encoding: "utf8" }).split("\t")[0]);
  assert.equal(du.total.allocatedBytes, want);
  const compressed = cache.fixtures.reduce((sum, { gz }) => sum + gz.length, 0);
  assert.equal(du.kinds.compressed?.apparentBytes, compressed);
  assert.ok((du.kinds.data?.allocatedBytes ?? 0) >= 4 * MIB && (du.kinds.indexes?.allocatedBytes ?? 0) > 0);
  const image = await recordImage(cache.path, cache.fixtures.slice(0, 1), "v1");
  const { blobs } = (await cache.json("cache", "ls")) as { blobs: Record<string, unknown>[] };
  assert.equal(blobs.length, 2);
  for (const fixture of cache.fixtures) {
    const row = blobs.find((each) => each.digest === cache.digest(fixture));
    assert.ok(row);
    const { blobBytes, fetchedBytes, spans, presentSpans, inUse, pinned } = row;
    assert.deepEqual([blobBytes, fetchedBytes, inUse, pinned], [fixture.gz.length, fixture.gz.length, false, false]);
    assert.ok(Number(spans) > 4 && Number(presentSpans) >= Number(spans) - 1);
    assert.deepEqual(row.images, fixture === cache.fixtures[0] ? ["registry.example/app:v1"] : []);
  }
  const table = await cache.ocifs("cache", "ls");
  assert.match(table.stdout, /^BLOB +SIZE .*\nsha256:[0-9a-f]{64} +2\.\d MiB +100%/);
  assert.match((await cache.ocifs("cache", "du")).stdout, /^total +\d+ +\d/m);
  assert.equal((await cache.ocifs("cache", "drop", image)).status, 0);
  assert.equal(((await cache.json("cache", "ls")) as { blobs: unknown[] }).blobs.length, 1);
});

test("verify finds wrong bytes, says so by its exit code, and repairs", async (t) => {
  const cache = await makeCache(t, 2);
  const [good, bad] = cache.fixtures;
  assert.ok(good && bad);
  const clean = await cache.ocifs("cache", "verify");
  assert.equal(clean.status, 0, clean.stderr);
  assert.match(clean.stdout, /blob right, \d+ spans right/);
  await flip(await cache.blobPath(bad, "compressed"), 100_000);
  await flip(await cache.blobPath(bad, "data-"), 1_000_000);
  for (const args of [[], [cache.digest(bad)]]) {
    const found = await cache.ocifs("cache", "verify", ...args);
    assert.equal(found.status, 1);
    assert.match(found.stdout, /blob WRONG, 1 of \d+ spans WRONG/);
    assert.match(found.stderr, /1 blob has wrong bytes; run "ocifs cache verify --repair"/);
  }
  assert.equal((await cache.ocifs("cache", "verify", cache.digest(good))).status, 0);
  assert.equal((await cache.ocifs("cache", "verify", "--repair")).status, 1);
  const after = await cache.ocifs("cache", "verify");
  assert.equal(after.status, 0, after.stderr);
  const read = await cache.ocifs("cat", `file:${join(bad.directory, "layer.tar.gz")}`, "file");
  assert.equal(read.status, 0, read.stderr);
  const whole = await cache.ocifs("cache", "verify", cache.digest(bad));
  assert.match(whole.stdout, /spans right/);
});

test("drop refuses what is in use or pinned, and removes the rest with its index", async (t) => {
  const cache = await makeCache(t, 3);
  const [used, pinned, free] = cache.fixtures;
  assert.ok(used && pinned && free);
  await using open = await CacheDirectory.open(cache.path);
  await using _ = await open.useBlob(used.index.manifest.blob.digest);
  assert.equal((await cache.ocifs("cache", "pin", cache.digest(pinned))).status, 0);
  for (const fixture of [used, pinned]) {
    const refused = await cache.ocifs("cache", "drop", cache.digest(free), cache.digest(fixture));
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /in use or pinned, nothing was removed: sha256:/);
  }
  const { blobs } = (await cache.json("cache", "ls")) as {
    blobs: { digest: string; inUse: boolean; pinned: boolean }[];
  };
  assert.deepEqual(
    cache.fixtures.map((fixture) => {
      const row = blobs.find(({ digest }) => digest === cache.digest(fixture));
      return [row?.inUse, row?.pinned];
    }),
    [
      [true, false],
      [false, true],
      [false, false],
    ],
  );
  assert.equal((await cache.ocifs("cache", "drop", cache.digest(free))).status, 0);
  assert.equal((await cache.ocifs("cache", "drop", "--all")).status, 1);
  for (const kind of ["blobs", "indexes"]) {
    const left = await readdir(join(cache.path, kind, "sha256"));
    const want: string[] = [used, pinned].map((fixture) => hexOf(fixture.index.manifest.blob.digest));
    assert.deepEqual(left.sort(), want.sort(), kind);
  }
  assert.equal((await cache.ocifs("cache", "unpin", cache.digest(pinned))).status, 0);
  assert.equal((await cache.ocifs("cache", "drop", cache.digest(pinned))).status, 0);
  assert.equal((await cache.ocifs("cache", "drop")).status, 2);
  assert.equal((await cache.ocifs("cache", "drop", "registry.example/nothing:1")).status, 1);
});

test("drop of an image leaves layers that another image has", async (t) => {
  const cache = await makeCache(t, 2);
  const [shared, own] = cache.fixtures;
  assert.ok(shared && own);
  await recordImage(cache.path, [shared, own], "v1");
  await recordImage(cache.path, [shared], "v2");
  const done = await cache.ocifs("cache", "drop", "registry.example/app:v1");
  assert.equal(done.status, 0, done.stderr);
  const { blobs } = (await cache.json("cache", "ls")) as { blobs: { digest: string; images: string[] }[] };
  assert.deepEqual(
    blobs.map(({ digest, images }) => [digest, images]),
    [[cache.digest(shared), ["registry.example/app:v2"]]],
  );
  assert.deepEqual(await readdir(join(cache.path, "refs")), ["v2.json"]);
  assert.equal((await readdir(join(cache.path, "images", "sha256"))).length, 1);
});

test("gc removes leftovers and what nothing refers to, and evicts down to a size, oldest first", async (t) => {
  const cache = await makeCache(t, 3);
  const [orphan, old, recent] = cache.fixtures;
  assert.ok(orphan && old && recent);
  const hex = (fixture: LayerFixture) => hexOf(fixture.index.manifest.blob.digest);
  const kept = async () => (await readdir(join(cache.path, "blobs", "sha256"))).sort();
  const dropped = await runCommand(["rm", "-r", join(cache.path, "indexes", "sha256", hex(orphan))]);
  assert.equal(dropped.status, 0, dropped.stderr);
  // No process has such a number, and none writes for a day.
  await writeFile(join(cache.path, ".probe-4194399-abc"), "x");
  const abandoned = join(cache.path, "indexes", "sha256", hex(old), ".x.zinfo.abc.tmp");
  const atWork = join(cache.path, "indexes", "sha256", hex(old), ".y.zinfo.abc.tmp");
  for (const path of [abandoned, atWork]) await writeFile(path, "x");
  await utimes(abandoned, 1e9, 1e9);
  assert.equal((await cache.json("cache", "gc")).leftovers, 2);
  assert.deepEqual(await kept(), [hex(old), hex(recent)].sort());
  await utimes(await cache.blobPath(old, "use"), 1e9, 1e9);
  const { usedBytes } = await cache.json("cache", "gc", "--size", "5M");
  assert.ok(Number(usedBytes) <= 5 * MIB, `${usedBytes} bytes`);
  assert.deepEqual(await kept(), [hex(recent)]);
  const source = `file:${join(recent.directory, "layer.tar.gz")}`;
  await using directory = await CacheDirectory.open(cache.path);
  {
    await using _ = await directory.useBlob(recent.index.manifest.blob.digest);
    const short = await cache.ocifs("cache", "gc", "--size", "64K");
    assert.equal(short.status, 1);
    assert.match(short.stderr, /still takes up .*; the rest is in use or pinned/);
  }
  assert.equal((await cache.ocifs("cache", "gc", "--size", "200K")).status, 0);
  assert.deepEqual(await kept(), []);
  assert.deepEqual((await readFile(join(recent.directory, "layer.tar.gz"))).length, first([recent]).gz.length);
  assert.equal((await cache.ocifs("index", "create", source)).status, 0);
});
