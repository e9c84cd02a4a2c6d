import assert from "node:assert/strict";
import { mkdir, readdir, readFile, stat, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { ImageStore } from "../../src/cache/image-store.js";
import { tagKeyOf, tagRecordPath } from "../../src/cache/tag-record.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { listeningLog } from "../support/said.js";
import { tempDirectory } from "../support/temp.js";

const amd64 = parsePlatform("linux/amd64");
const bytes = Buffer.from('{"a":1}');
const digest = digestOfBytes(bytes);
const key = tagKeyOf(parseReference("registry.example:5000/team/app:1.4"), amd64);

async function openStore(t: TestContext) {
  const path = await tempDirectory(t);
  const cache = await CacheDirectory.open(path);
  assert.equal(cache.unusable, undefined);
  return { path, cache, store: new ImageStore(cache, listeningLog().log) };
}

test("manifests and configs are kept as they are, for this user only", async (t) => {
  const { path, store } = await openStore(t);
  assert.equal(await store.readManifest(digest), undefined);
  await store.writeManifest(digest, bytes);
  await store.writeConfig(digest, bytes);
  assert.deepEqual(await store.readManifest(digest), bytes);
  assert.deepEqual(await store.readConfig(digest, digest), bytes);
  const directory = join(path, "images", "sha256", digest.slice(7));
  assert.deepEqual((await readdir(directory)).sort(), ["config.json", "manifest.json"]);
  assert.equal((await stat(directory)).mode & 0o777, 0o700);
  assert.equal((await stat(join(directory, "manifest.json"))).mode & 0o777, 0o600);
});

test("what is damaged counts as absent, with a warning, and can be written again", async (t) => {
  const { path, cache } = await openStore(t);
  const { log, said } = listeningLog();
  const store = new ImageStore(cache, log);
  await store.writeManifest(digest, bytes);
  const file = join(path, "images", "sha256", digest.slice(7), "manifest.json");
  for (const damage of ["", '{"a":2}']) {
    await writeFile(file, damage);
    assert.equal(await store.readManifest(digest), undefined);
  }
  assert.equal(said.length, 2);
  assert.match(said[1] ?? "", /it counts as absent: .*manifest\.json.*digest/);
  await store.writeManifest(digest, bytes);
  assert.deepEqual(await store.readManifest(digest), bytes);
});

test("a tag is known for its own reference and platform only, with the time when it was last confirmed", async (t) => {
  const { store, path } = await openStore(t);
  await store.writeTag(key, digest);
  const known = await store.readTag(key);
  assert.equal(known?.rootDigest, digest);
  for (const [reference, platform] of [
    ["registry.example:5000/team/app:1.5", "linux/amd64"],
    ["registry.example/team/app:1.4", "linux/amd64"],
    ["registry.example:5000/team/app:1.4", "linux/arm64"],
  ] as const) {
    assert.equal(await store.readTag(tagKeyOf(parseReference(reference), parsePlatform(platform))), undefined);
  }
  const file = tagRecordPath(path, key);
  await utimes(file, new Date(1000), new Date(1000));
  assert.equal((await store.readTag(key))?.confirmedAt.getTime(), 1000);
  await store.writeTag(key, digest, known);
  assert.ok(((await store.readTag(key))?.confirmedAt.getTime() ?? 0) > 1000);
});

test("golden bytes of a tag's record", async (t) => {
  const { store, path } = await openStore(t);
  await store.writeTag(key, `sha256:${"ab".repeat(32)}`);
  const [found] = await readdir(join(path, "refs"));
  assert.match(found ?? "", /^[0-9a-f]{64}\.json$/);
  assert.equal(
    await readFile(tagRecordPath(path, key), "utf8"),
    `{
 "version": 1,
 "registry": "registry.example:5000",
 "repository": "team/app",
 "tag": "1.4",
 "platform": "linux/amd64",
 "digest": "sha256:${"ab".repeat(32)}"
}
`,
  );
});

test("a damaged or foreign record of a tag counts as absent", async (t) => {
  const { path, cache } = await openStore(t);
  const { log, said } = listeningLog();
  const store = new ImageStore(cache, log);
  await store.writeTag(key, digest);
  const file = tagRecordPath(path, key);
  const good = await readFile(file, "utf8");
  const damages = [
    "",
    "[]",
    "null",
    good.replace(/sha256:../, "sha256:xy"),
    good.replace("1.4", "1.5"),
    good.replace(": 1,", ": 2,"),
    "x".repeat(5000),
  ];
  for (const damage of damages) {
    await writeFile(file, damage);
    assert.equal(await store.readTag(key), undefined, damage.slice(0, 100));
  }
  assert.equal(said.length, damages.length);
});

test("writers at once leave one whole file", async (t) => {
  const { path, store } = await openStore(t);
  await Promise.all(Array.from({ length: 20 }, () => store.writeManifest(digest, bytes)));
  await Promise.all(Array.from({ length: 20 }, () => store.writeTag(key, digest)));
  assert.deepEqual(await store.readManifest(digest), bytes);
  assert.deepEqual(await readdir(join(path, "images", "sha256", digest.slice(7))), ["manifest.json"]);
  assert.equal((await readdir(join(path, "refs"))).length, 1);
});

test("a cache that cannot be written costs a warning, and nothing is left behind", async (t) => {
  const { path, cache } = await openStore(t);
  const { log, said } = listeningLog();
  const store = new ImageStore(cache, log);
  // A file where a directory is wanted.
  await writeFile(join(path, "images"), "");
  await store.writeManifest(digest, bytes);
  assert.equal(said.length, 1);
  assert.match(said[0] ?? "", /metadata cannot be kept/);
  // A directory where the file is wanted.
  await mkdir(tagRecordPath(path, key), { recursive: true });
  await store.writeTag(key, digest);
  assert.equal(said.length, 2);
  assert.equal((await readdir(join(path, "refs"))).length, 1);
});
