import assert from "node:assert/strict";
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { type FaultMount, startFaultMount } from "../support/fault-mount.js";
import type { Handler } from "../support/faulty-server.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { MountSandbox } from "../support/mounted-image.js";
import { pushImage, startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { buildTar } from "../support/tar-builder.js";

const MIB = 1 << 20;
const COMPLETE = /a layer is complete and its digests are right/;

interface Stage {
  readonly fixture: LayerFixture;
  readonly server: ImageServer;
  readonly cacheDir: string;
  mount(options: readonly string[], jsonPath?: string): Promise<FaultMount>;
}

async function setUp(t: TestContext): Promise<Stage> {
  const fixture = await makeLayerFixture(t, {
    files: { first: 3 * MIB, small: 1000, last: 3 * MIB },
    random: true,
    spanSizeBytes: MIB,
  });
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  const { tarindexPath, zinfoPath } = fixture.index;
  const index = [`oci.tarindex=${tarindexPath}`, `oci.zinfo=${zinfoPath}`];
  const cacheDir = join(fixture.directory, "cache");
  return {
    fixture,
    server,
    cacheDir,
    mount: (options) => startFaultMount(t, server.reference, [...index, ...options], cacheDir),
  };
}

async function assertReads(mount: FaultMount, fixture: LayerFixture): Promise<void> {
  for (const [name, content] of fixture.files) {
    const { exitCode, bytes, stderr } = await mount.startReader(name).result;
    assert.equal(exitCode, 0, `${name}: ${stderr}`);
    assert.ok(content.equals(bytes), `${name}: wrong bytes`);
  }
}

/** How often each byte of the layer was asked for, by the requests from `since` on. */
function timesAsked({ server, fixture }: Stage, since = 0): Uint8Array {
  const counts = new Uint8Array(fixture.gz.length);
  for (const { headers, url } of server.server.requests.slice(since)) {
    if (!url.endsWith(fixture.index.manifest.blob.digest)) continue;
    const [, begin, end] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "") ?? ["", "0", `${counts.length - 1}`];
    for (let at = Number(begin); at <= Number(end); at++) counts[at] = (counts[at] ?? 0) + 1;
  }
  return counts;
}

/** The first half of the layer, then silence: for one request. */
const halfAndSilence =
  ({ server, fixture }: Stage): Handler =>
  (request, response) => {
    server.fault = () => undefined;
    const end = response.end.bind(response);
    const half = fixture.gz.length >> 1;
    response.end = ((bytes: Buffer) => {
      response.write(bytes.subarray(0, half));
      return response;
    }) as typeof end;
    server.serveLayer(request, response);
  };

/** Resolves once the cache holds so many compressed bytes. */
async function cached({ cacheDir, fixture }: Stage, bytes: number): Promise<void> {
  const { digest } = fixture.index.manifest.blob;
  const path = join(cacheDir, "blobs", "sha256", hexOf(digest), "compressed");
  await using file = await CompressedFile.open(path, fixture.gz.length);
  while (file.presentBytes() < bytes) await setImmediate();
}

for (const mode of ["all", "idle"]) {
  test(`S68: prefetch=${mode}: complete, and then neither this mount nor the next needs the registry`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const stage = await setUp(t);
    const { fixture, server } = stage;
    const mount = await stage.mount([`prefetch=${mode}`]);
    await mount.logged(COMPLETE);
    const { layers, bytesFetched } = await mount.status();
    const [layer] = layers;
    assert.equal(bytesFetched, fixture.gz.length);
    assert.deepEqual([layer?.complete, layer?.blobVerified, layer?.cachedSpans], [true, true, layer?.spans]);
    assert.deepEqual(layer?.fill, { state: "done", reason: null, bytesLeft: 0 });
    assert.ok(
      timesAsked(stage).every((times) => times === 1),
      "each byte once",
    );
    const before = server.blobRequests;
    server.fault = (_request, response) => void response.socket?.resetAndDestroy();
    await assertReads(mount, fixture);
    assert.equal(await mount.stop(), 0, mount.log());
    const again = await stage.mount([`prefetch=${mode}`]);
    await assertReads(again, fixture);
    const status = await again.status();
    assert.deepEqual([status.readMisses, status.bytesFetched, status.layers[0]?.complete], [0, 0, true]);
    assert.equal(server.blobRequests, before);
    assert.equal(await again.stop(), 0, again.log());
  });
}

test("S69: a read during a fill that is held to a low bandwidth is served at once", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const stage = await setUp(t);
  // All of the layer would take longer than a test may.
  const mount = await stage.mount(["prefetch=all", "prefetchrate=1K"]);
  await mount.logged(/filling a layer in the background/);
  await assertReads(mount, stage.fixture);
  const { layers } = await mount.status();
  const fill = layers[0]?.fill;
  assert.ok(fill?.state === "filling" || fill?.state === "paused" || fill?.state === "done", JSON.stringify(fill));
  assert.equal(await mount.stop(), 0, mount.log());
});

test("killed in the middle of a fill: the next mount goes on from there", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const stage = await setUp(t);
  const { fixture, server } = stage;
  server.fault = halfAndSilence(stage);
  const killed = await stage.mount(["prefetch=all"]);
  const half = fixture.gz.length >> 1;
  // Less than a block may wait for more.
  const arrived = half - (half % 4096);
  await cached(stage, arrived);
  await killed.kill();
  server.fault = undefined;
  const since = server.server.requests.length;
  const mount = await stage.mount(["prefetch=all"]);
  await mount.logged(COMPLETE);
  const asked = timesAsked(stage, since);
  assert.ok(
    asked.subarray(0, arrived).every((times) => times === 0),
    "bytes that were there are fetched again",
  );
  assert.ok(asked.subarray(arrived).every((times) => times === 1));
  await assertReads(mount, fixture);
  assert.equal(await mount.stop(), 0, mount.log());
});

test("a fill that the network ends is tried again; reads of what is here go on", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const stage = await setUp(t);
  const { server, fixture } = stage;
  const mount = await stage.mount(["timeout=1s", "onerror=eio"]);
  assert.ok((await mount.startReader("small").result).bytes.equals(fixture.files.get("small") ?? Buffer.alloc(0)));
  assert.equal(await mount.stop(), 0);
  server.fault = (_request, response) => {
    response.writeHead(500);
    response.end();
  };
  const second = await stage.mount(["timeout=1s", "onerror=eio", "prefetch=all"]);
  await second.logged(/the background fill of a layer waits/);
  const { layers, state } = await second.status();
  assert.equal(state, "ready", "a fill that fails is no failure of the mount");
  assert.match(layers[0]?.fill.reason ?? "none", /HTTP 500/);
  assert.ok((await second.startReader("small").result).bytes.equals(fixture.files.get("small") ?? Buffer.alloc(0)));
  server.fault = undefined;
  await second.logged(COMPLETE);
  await assertReads(second, fixture);
  assert.equal(await second.stop(), 0, second.log());
});

test("an index with another diffID: the layer is refused, and nothing of it is served", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const stage = await setUp(t);
  const { fixture, server, cacheDir } = stage;
  const paths = (extension: string) => join(fixture.directory, `wrong.${extension}`);
  for (const extension of ["tarindex", "zinfo"]) {
    await copyFile(join(fixture.directory, `layer.${extension}`), paths(extension));
  }
  const json = JSON.parse(await readFile(join(fixture.directory, "layer.json"), "utf8"));
  json.tar.digest = digestOfBytes(Buffer.from("another tar"));
  await writeFile(paths("json"), JSON.stringify(json));
  const mount = await startFaultMount(
    t,
    server.reference,
    [`oci.tarindex=${paths("tarindex")}`, `oci.zinfo=${paths("zinfo")}`, "prefetch=all"],
    cacheDir,
  );
  await mount.logged(/a layer cannot be completed/);
  const { layers, state, problem } = await mount.status();
  assert.deepEqual([state, layers[0]?.complete, layers[0]?.fill.state], ["degraded", false, "failed"]);
  assert.match(problem ?? "", /the index recorded sha256:.*not served any more/);
  const { exitCode, bytes } = await mount.startReader("last").result;
  assert.deepEqual([exitCode, bytes.length], [1, 0]);
  assert.equal(await mount.stop(), 0, mount.log());
});

test("two mounts that fill one cache share the download", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const stage = await setUp(t);
  const mounts = await Promise.all([1, 2].map(() => stage.mount(["prefetch=all"])));
  await Promise.all(mounts.map((mount) => mount.logged(COMPLETE)));
  assert.ok(
    timesAsked(stage).every((times) => times === 1),
    "a byte was fetched twice",
  );
  for (const mount of mounts) {
    await assertReads(mount, stage.fixture);
    assert.equal((await mount.status()).layers[0]?.complete, true);
    assert.equal(await mount.stop(), 0, mount.log());
  }
});

test("a mount ends at once while its fill waits for the server", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const stage = await setUp(t);
  stage.server.fault = () => undefined;
  const asked = stage.server.moreBlobRequests(1);
  const mount = await stage.mount(["prefetch=all", "timeout=1h"]);
  await asked;
  assert.equal(await mount.stop(), 0, mount.log());
});

test("a whole image is completed layer by layer, and read with the registry gone", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const registry = await startRegistry();
  t.after(() => registry.stop());
  const tars = ["one", "two", "three"].map((name, i) =>
    buildTar([{ path: name, data: Buffer.alloc((3 - i) * 300_000, `layer ${name}, `) }]),
  );
  const layers = tars.map((tar) => ({
    bytes: gzipSync(tar),
    mediaType: mediaTypes.ociLayerGzip,
    diffId: digestOfBytes(tar),
  }));
  await pushImage(registry.host, { repository: "team/app", tag: "v1", layers });
  const image = `${registry.host}/team/app:v1`;
  const made = await sandbox.ocifs(["index", "create", image, "--insecure", "--cachedir", sandbox.cache]);
  assert.equal(made.status, 0, made.stderr);
  const mount = await startFaultMount(t, image, ["prefetch=all"], sandbox.cache);
  await mount.logged(/(a layer is complete[\s\S]*){3}/);
  await registry.stop();
  for (const [i, name] of ["one", "two", "three"].entries()) {
    const { exitCode, bytes } = await mount.startReader(name).result;
    assert.equal(exitCode, 0);
    assert.ok(bytes.equals(Buffer.alloc((3 - i) * 300_000, `layer ${name}, `)));
  }
  const status = await mount.status();
  assert.ok(status.layers.every(({ complete }) => complete));
  assert.equal(status.readMisses, 0);
  assert.equal(await mount.stop(), 0, mount.log());
});
