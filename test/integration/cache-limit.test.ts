import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { OpenLayer } from "../../src/layer/open-layer.js";
import { type LayerFixture, makeLayerFixture, openFixtureLayer } from "../support/layer-fixture.js";
import { MemoryBlob } from "../support/memory-blob.js";

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

for (const limitBytes of [MIB, 2 * MIB, 4 * MIB, 9 * MIB]) {
  test(`a layer of 12 MiB read from end to end, twice, in ${limitBytes / MIB} MiB of cache`, async (t) => {
    const fixture = await makeLayerFixture(t, big);
    const { layer, sample, blob, lines, samples } = await openLimited(t, fixture, limitBytes);
    for (let round = 0; round < 2; round++) {
      for (let at = 0; at < fixture.tar.length; at += 128 * KIB) {
        await checkRead(layer, fixture, at, 128 * KIB);
        if (at % MIB === 0) sample();
      }
    }
    assert.equal(layer.stats().problem, undefined);
    t.diagnostic(
      `${blob.delivered} of 2 * ${fixture.gz.length}; ${blob.requests.length}; max ${Math.max(...samples)}; ${lines.length}`,
    );
    // Each round fetches everything once, save what a request brought too much.
    assert.ok(blob.delivered < 3 * fixture.gz.length, `${blob.delivered} bytes fetched of ${fixture.gz.length}`);
  });
}

for (const limitBytes of [256 * KIB, MIB, 3 * MIB]) {
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
    t.diagnostic(`${blob.delivered} of ${fixture.gz.length}; ${blob.requests.length}; max ${Math.max(...samples)}`);
    assert.equal(layer.stats().problem?.replace(/:.*/, ""), limitBytes < MIB ? "no disk cache" : undefined);
  });
}
