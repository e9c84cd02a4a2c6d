import assert from "node:assert/strict";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type MountableImage, openMountableImage } from "../../src/image/mountable-image.js";
import type { OpenLayer } from "../../src/layer/open-layer.js";
import { startFaultMount } from "../support/fault-mount.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { requireRootAndFuse } from "../support/requires.js";
import { listeningLog } from "../support/said.js";
import { tempDirectory } from "../support/temp.js";

const MIB = 1 << 20;
/** What a program reads, one after the other; of the layer's 11 spans. */
const program = [8, 3, 9, 6, 1, 7];

/** A registry with one image of one layer, and a cache that has its index. */
async function setStage(t: TestContext) {
  const fixture = await makeLayerFixture(t, { files: { file: 10 * MIB }, random: true });
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  const cacheDir = await tempDirectory(t);
  const { log, said } = listeningLog();
  const open = (profiles?: { record: boolean }) =>
    openMountableImage(
      {
        source: server.reference,
        insecure: true,
        cacheDir,
        verify: "blob",
        timeoutMs: 10_000,
        ...(profiles ? { profiles } : {}),
      },
      log,
    );
  /** As a mount with everything in the cache but the index gone. */
  const openCold = async (profiles?: { record: boolean }) => {
    await rm(join(cacheDir, "blobs"), { recursive: true, force: true });
    return await open(profiles);
  };
  const hex = fixture.index.manifest.blob.digest.slice(7);
  const profilePath = join(cacheDir, "indexes", "sha256", hex, `sha256-${hex}.profile`);
  {
    // The index is built, and all of the layer is in the cache: nothing is to be learnt from that.
    await using image = await open({ record: true });
    await read(image, fixture, program);
  }
  assert.ok(!(await readdir(join(cacheDir, "indexes", "sha256", hex))).some((name) => name.endsWith(".profile")));
  return { fixture, server, open, openCold, profilePath, said };
}

function layerOf(image: MountableImage): OpenLayer {
  const [layer] = image.layers;
  assert.ok(layer);
  return layer;
}

/** Reads spans as a mount does: told to the profiles, then brought; each read is compared. */
async function read(image: MountableImage, fixture: LayerFixture, spans: readonly number[]): Promise<void> {
  const layer = layerOf(image);
  for (const span of spans) {
    if (!layer.store.present(span)) {
      using _ = image.profiles?.demand(1, span, span);
      await layer.spans.ensure(span, span);
    }
    const offset = layer.table.outStarts[span] ?? 0;
    const got = await layer.device.read(offset, 4096);
    assert.ok(Buffer.from(got).equals(fixture.tar.subarray(offset, offset + 4096)), `span ${span}`);
  }
}

/** Compressed bytes of spans, in whole blocks, as they are fetched. */
function compressedBytes(layer: OpenLayer, spans: readonly number[]): number {
  return spans.reduce((sum, span) => {
    const { begin, end } = layer.table.compressedRange(span);
    return sum + Math.ceil(end / 4096) * 4096 - Math.floor(begin / 4096) * 4096;
  }, 0);
}

test("what a cold mount reads first is fetched before the next cold one asks for it, and no byte besides", async (t) => {
  const { fixture, server, openCold, profilePath, said } = await setStage(t);
  {
    await using image = await openCold({ record: true });
    await read(image, fixture, program);
    await read(image, fixture, program);
  }
  const kept = JSON.parse(await readFile(profilePath, "utf8"));
  assert.equal(kept.blob, fixture.index.manifest.blob.digest);
  const before = server.blobRequests;
  const asked = server.moreBlobRequests(1);
  {
    await using image = await openCold({ record: true });
    const layer = layerOf(image);
    assert.deepEqual(
      kept.reads.map(([, offset]: number[]) => layer.store.spanAt(offset ?? 0)),
      program,
    );
    // Without a single read.
    await asked;
    await read(image, fixture, program);
    const { bytes } = layer.source.stats();
    const touched = compressedBytes(layer, program);
    assert.ok(bytes <= touched && bytes >= touched - 16 * 4096, `${bytes} bytes of ${touched}`);
    assert.ok(server.blobRequests - before <= program.length, `${server.blobRequests - before} requests`);
  }
  assert.deepEqual(
    JSON.parse(await readFile(profilePath, "utf8")).reads.map(([, ...place]: number[]) => place),
    kept.reads.map(([, ...place]: number[]) => place),
  );
  assert.deepEqual(said, []);
});

test("nobody reads: a quarter of the profile, or one request, is all that is fetched", async (t) => {
  const { fixture, server, openCold } = await setStage(t);
  {
    await using image = await openCold({ record: true });
    await read(image, fixture, program);
  }
  const asked = server.moreBlobRequests(1);
  await using image = await openCold({ record: true });
  await asked;
  await image.profiles?.[Symbol.asyncDispose]();
  assert.ok(layerOf(image).source.stats().requests <= 1);
});

test("switched off, or without recording, profiles are left alone", async (t) => {
  const { fixture, server, openCold, profilePath } = await setStage(t);
  {
    await using image = await openCold({ record: true });
    await read(image, fixture, program);
  }
  const kept = await readFile(profilePath, "utf8");
  const before = server.blobRequests;
  for (const profiles of [undefined, { record: false }]) {
    await using image = await openCold(profiles);
    if (profiles === undefined) assert.equal(server.blobRequests, before);
    await read(image, fixture, [0, 7]);
  }
  assert.equal(await readFile(profilePath, "utf8"), kept);
});

test("a damaged profile counts as absent, with a warning, and is replaced", async (t) => {
  const { fixture, server, openCold, profilePath, said } = await setStage(t);
  await writeFile(profilePath, "{}\n");
  const before = server.blobRequests;
  {
    await using image = await openCold({ record: true });
    assert.equal(server.blobRequests, before);
    await read(image, fixture, [5]);
  }
  assert.equal(said.length, 1);
  assert.match(
    said[0] ?? "",
    /an access profile counts as absent: access profile .*\.profile: version undefined, want 1/,
  );
  assert.equal(JSON.parse(await readFile(profilePath, "utf8")).reads.length, 1);
});

test("mount.ocifs keeps a profile at its end; beside an index that was named it is used and stays", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const fixture = await makeLayerFixture(t);
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  const cacheDir = await tempDirectory(t);
  const hex = fixture.index.manifest.blob.digest.slice(7);
  const indexDirectory = join(cacheDir, "indexes", "sha256", hex);
  await mkdir(indexDirectory, { recursive: true });
  for (const kind of ["tarindex", "zinfo", "json"]) {
    await copyFile(join(fixture.directory, `layer.${kind}`), join(indexDirectory, `sha256-${hex}.${kind}`));
  }
  const first = await startFaultMount(t, server.reference, [], cacheDir);
  const { bytes } = await first.startReader("big").result;
  assert.ok(fixture.files.get("big")?.equals(bytes));
  assert.equal(await first.stop(), 0);
  const kept = await readFile(join(indexDirectory, `sha256-${hex}.profile`), "utf8");
  assert.ok(JSON.parse(kept).reads.length > 1);

  const named = join(fixture.directory, "layer.profile");
  await writeFile(named, kept);
  const words = ["tarindex", "zinfo"].map((kind) => `oci.${kind}=${join(fixture.directory, `layer.${kind}`)}`);
  const asked = server.moreBlobRequests(1);
  const second = await startFaultMount(t, server.reference, words);
  // Nobody has read anything yet.
  await asked;
  const again = await second.startReader("small").result;
  assert.ok(fixture.files.get("small")?.equals(again.bytes));
  assert.equal(await second.stop(), 0);
  assert.equal(await readFile(named, "utf8"), kept);

  const before = server.blobRequests;
  const third = await startFaultMount(t, server.reference, [...words, "profile=off"]);
  assert.equal(await third.stop(), 0);
  assert.equal(server.blobRequests, before);
});
