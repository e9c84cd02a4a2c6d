import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { tagKeyOf, tagRecordPath } from "../../src/cache/tag-record.js";
import { OpenSource } from "../../src/image/open-source.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { rejectsWith } from "../support/errors.js";
import type { ReceivedRequest } from "../support/faulty-server.js";
import { listeningLog } from "../support/said.js";
import { ScriptedRegistry, scriptedRepository, toJson } from "../support/scripted-registry.js";
import { tempDirectory } from "../support/temp.js";

const platform = "linux/amd64";

/** A registry that says what its tags mean, as most do, and a cache. */
async function setStage(t: TestContext) {
  const registry = await ScriptedRegistry.start();
  t.after(() => registry[Symbol.asyncDispose]());
  const path = await tempDirectory(t);
  const cache = await CacheDirectory.open(path);
  const { log, said } = listeningLog();
  let manifest = registry.manifest;
  const serve = (request: ReceivedRequest, response: ServerResponse) => {
    if (!request.url.includes("/manifests/")) return registry.serve(request, response);
    const type = manifest.includes(mediaTypes.ociIndex) ? mediaTypes.ociIndex : mediaTypes.ociManifest;
    const byDigest = request.url.endsWith(digestOfBytes(registry.manifest)) ? registry.manifest : manifest;
    response.writeHead(200, {
      "content-type": byDigest === manifest ? type : mediaTypes.ociManifest,
      "docker-content-digest": digestOfBytes(byDigest),
    });
    response.end(byDigest);
  };
  registry.server.handle(serve);
  const reference = `${registry.host}/${scriptedRepository}`;
  /** What a new process would find out, and what it asked for it. */
  const resolve = async (selector = ":v1", options: { timeoutMs?: number; platform?: string } = {}) => {
    const before = registry.server.requests.length;
    const common = { source: `${reference}${selector}`, insecure: true, platform, timeoutMs: 1000, ...options };
    await using source = await OpenSource.open(common, undefined, { cache, log });
    await source.fetchDiffId(0);
    const asked = registry.server.requests.slice(before).map(({ method, url }) => `${method} ${url.split("/").at(-2)}`);
    return { digest: source.resolved?.manifestDigest, asked };
  };
  const recordPath = tagRecordPath(path, tagKeyOf(parseReference(`${reference}:v1`), parsePlatform(platform)));
  return { registry, path, said, resolve, serve, recordPath, setManifest: (next: Buffer) => (manifest = next) };
}

const all = ["GET manifests", "GET blobs"];

test("a tag is asked for each time, a digest never again", async (t) => {
  const { registry, resolve, said } = await setStage(t);
  const digest = digestOfBytes(registry.manifest);
  assert.deepEqual(await resolve(), { digest, asked: all });
  assert.deepEqual(await resolve(), { digest, asked: ["HEAD manifests"] });
  assert.deepEqual(await resolve(`@${digest}`), { digest, asked: [] });
  assert.deepEqual(await resolve(`:other@${digest}`), { digest, asked: [] });
  await registry.server.stop();
  assert.deepEqual(await resolve(`@${digest}`), { digest, asked: [] });
  assert.deepEqual(said, []);
});

test("while nobody listens a tag means what it last meant, with a warning that says how old that is", async (t) => {
  const { registry, resolve, said } = await setStage(t);
  const digest = digestOfBytes(registry.manifest);
  await resolve();
  await registry.server.stop();
  // Were it tried again until the timeout, the test would not end in time.
  assert.deepEqual(await resolve(":v1", { timeoutMs: 3_600_000 }), { digest, asked: [] });
  assert.equal(said.length, 1);
  assert.match(
    said[0] ?? "",
    /its registry cannot be asked; using what the tag meant less than a second ago, sha256:[0-9a-f]{64}: .*ECONNREFUSED/,
  );
  await rejectsWith(resolve(":never-seen", { timeoutMs: 1 }), "network");
  await rejectsWith(resolve(":v1", { platform: "linux/arm64", timeoutMs: 1 }), "network");
});

test("a registry that cannot answer counts as absent: 503, 429, silence, a broken connection", async (t) => {
  const { registry, resolve, said } = await setStage(t);
  const digest = digestOfBytes(registry.manifest);
  await resolve();
  const faults = [
    (_: ReceivedRequest, response: ServerResponse) => void response.writeHead(503).end(),
    (_: ReceivedRequest, response: ServerResponse) => void response.writeHead(429, { "retry-after": "3600" }).end(),
    () => undefined,
    (_: ReceivedRequest, response: ServerResponse) => void response.destroy(),
  ];
  for (const [i, fault] of faults.entries()) {
    registry.server.handle(fault);
    assert.equal((await resolve(":v1", { timeoutMs: 30 })).digest, digest);
    assert.equal(said.length, i + 1);
  }
});

test("one bad answer is no outage", async (t) => {
  const { registry, resolve, said, serve } = await setStage(t);
  await resolve();
  let answers = 0;
  registry.server.handle((request, response) => {
    if (answers++ === 0) response.writeHead(503).end();
    else serve(request, response);
  });
  assert.deepEqual((await resolve(":v1", { timeoutMs: 4000 })).asked, ["HEAD manifests", "HEAD manifests"]);
  assert.deepEqual(said, []);
});

test("a registry that answers is believed: 404, 401 and 403 are errors, not the old image", async (t) => {
  const { registry, resolve, said } = await setStage(t);
  await resolve();
  for (const [status, code] of [
    [404, "not-found"],
    [401, "unauthorized"],
    [403, "denied"],
  ] as const) {
    registry.server.handle((_, response) => response.writeHead(status).end());
    await rejectsWith(resolve(), code);
  }
  assert.deepEqual(said, []);
});

test("a tag that moved means what it means now, and offline too; moved back it needs no manifest", async (t) => {
  const { registry, resolve, setManifest } = await setStage(t);
  await resolve();
  const moved = toJson({ ...JSON.parse(registry.manifest.toString()), annotations: { moved: "yes" } });
  setManifest(moved);
  assert.deepEqual(await resolve(), { digest: digestOfBytes(moved), asked: ["HEAD manifests", ...all] });
  setManifest(registry.manifest);
  assert.deepEqual(await resolve(), { digest: digestOfBytes(registry.manifest), asked: ["HEAD manifests"] });
  setManifest(moved);
  await resolve();
  await registry.server.stop();
  assert.equal((await resolve()).digest, digestOfBytes(moved));
});

test("a registry that answers HEAD without a digest, or not at all, is asked for the manifest", async (t) => {
  const { registry, resolve, serve, said } = await setStage(t);
  await resolve();
  registry.server.handle(registry.serve);
  assert.deepEqual((await resolve()).asked, ["HEAD manifests", "GET manifests"]);
  registry.server.handle((request, response) =>
    request.method === "HEAD" ? void response.writeHead(405).end() : serve(request, response),
  );
  assert.deepEqual((await resolve()).asked, ["HEAD manifests", "GET manifests"]);
  assert.deepEqual(said, []);
});

test("an index is kept with the manifest it led to", async (t) => {
  const { registry, resolve, setManifest } = await setStage(t);
  const digest = digestOfBytes(registry.manifest);
  const entry = { mediaType: mediaTypes.ociManifest, digest, size: registry.manifest.length };
  const other = {
    ...entry,
    digest: digestOfBytes(Buffer.from("other")),
    platform: { os: "linux", architecture: "arm64" },
  };
  const index = toJson({
    schemaVersion: 2,
    mediaType: mediaTypes.ociIndex,
    manifests: [{ ...entry, platform: { os: "linux", architecture: "amd64" } }, other],
  });
  setManifest(index);
  assert.deepEqual(await resolve(), { digest, asked: ["GET manifests", ...all] });
  await registry.server.stop();
  assert.deepEqual(await resolve(), { digest, asked: [] });
  assert.deepEqual(await resolve(`@${digestOfBytes(index)}`), { digest, asked: [] });
  // Its manifest was never fetched.
  await rejectsWith(resolve(`@${digestOfBytes(index)}`, { platform: "linux/arm64", timeoutMs: 1 }), "network");
});

test("damaged files of the cache are fetched again", async (t) => {
  const { registry, path, recordPath, resolve, said } = await setStage(t);
  const digest = digestOfBytes(registry.manifest);
  const directory = join(path, "images", "sha256", digest.slice(7));
  await resolve();
  for (const [file, asked] of [
    [recordPath, ["GET manifests"]],
    [join(directory, "manifest.json"), ["GET manifests"]],
    [join(directory, "config.json"), ["HEAD manifests", "GET blobs"]],
  ] as const) {
    await writeFile(file, "{}");
    assert.deepEqual(await resolve(), { digest, asked }, file);
    assert.deepEqual(await resolve(), { digest, asked: ["HEAD manifests"] });
  }
  assert.equal(said.length, 3);
});
