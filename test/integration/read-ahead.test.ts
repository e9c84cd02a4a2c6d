import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { openRemoteBlob } from "../../src/blob/remote.js";
import { RegistryClient } from "../../src/registry/client.js";
import { serveBytes, startFaultyServer } from "../support/faulty-server.js";
import { makeLayerFixture, openFixtureLayer } from "../support/layer-fixture.js";

const KIB = 1 << 10;
/** With its header as long as a span. */
const FILE_BYTES = 64 * KIB - 512;

/** A layer of many files behind a real HTTP server that counts. */
async function setStage(t: TestContext, files: number, fileBytes: number) {
  const names = Array.from({ length: files }, (_, i) => [`file${i}`, fileBytes]);
  const fixture = await makeLayerFixture(t, {
    files: Object.fromEntries(names),
    random: true,
    spanSizeBytes: 64 * KIB,
  });
  const server = await startFaultyServer((request, response) => serveBytes(fixture.gz, request, response));
  t.after(() => server.stop());
  const client = new RegistryClient(server.host, { insecure: true });
  t.after(() => client[Symbol.asyncDispose]());
  const { digest } = fixture.index.manifest.blob;
  const source = openRemoteBlob(client, "team/app", {
    digest,
    sizeBytes: fixture.gz.length,
  });
  const layer = await openFixtureLayer(fixture, { cacheDir: join(fixture.directory, "cache"), source });
  t.after(() => layer[Symbol.asyncDispose]());
  /** As a mount reads a file: to its end, in pieces, telling where the end is. */
  const readFile = async (at: number) => {
    const begin = 512 + at * (fileBytes + 512);
    const end = begin + fileBytes;
    for (let offset = begin; offset < end; offset += 32 * KIB) {
      const last = layer.store.spanAt(Math.min(end, offset + 32 * KIB) - 1);
      await layer.spans.ensure(layer.store.spanAt(offset), last, { fileEndSpan: layer.store.spanAt(end - 1) });
    }
    const got = await layer.device.read(begin, fileBytes);
    assert.ok(Buffer.from(got).equals(fixture.tar.subarray(begin, end)), `file ${at}`);
  };
  const served = () => layer.source.stats().bytes;
  return { fixture, server, layer, readFile, served };
}

test("many files in the order of the tar are few requests, and each byte comes once", async (t) => {
  const { fixture, server, readFile, served } = await setStage(t, 120, FILE_BYTES);
  for (let i = 0; i < 120; i++) await readFile(i);
  // 120 without reading ahead past the ends of files.
  assert.ok(server.requests.length <= 30, `${server.requests.length} requests`);
  assert.ok(served() <= fixture.gz.length, `${served()} of ${fixture.gz.length} bytes`);
});

test("files here and there are fetched alone", async (t) => {
  const { readFile, served } = await setStage(t, 120, FILE_BYTES);
  for (const at of [100, 7, 55, 30, 80, 12]) await readFile(at);
  // Two spans a file at most.
  assert.ok(served() <= 6 * 2 * (FILE_BYTES + 6 * KIB), `${served()} bytes`);
});

test("who stops in the middle has caused no more than was read before", async (t) => {
  const { layer, readFile, served } = await setStage(t, 120, FILE_BYTES);
  for (let i = 0; i < 12; i++) await readFile(i);
  // What was begun ends with the layer.
  await layer[Symbol.asyncDispose]();
  assert.ok(served() <= 2 * 13 * (FILE_BYTES + 2 * KIB), `${served()} bytes`);
});
