import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { open, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { readBounded } from "../../src/base/read-bounded.js";
import { readCredentials } from "../../src/cli/command.js";
import { loadIndex } from "../../src/index/load.js";
import { parseImageConfig } from "../../src/oci/config.js";
import { parseJsonObject } from "../../src/oci/json.js";
import { parseManifest } from "../../src/oci/manifest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { readAuthFile } from "../../src/registry/auth-file.js";
import { rejectsWith, throwsWith } from "../support/errors.js";
import { tempDirectory } from "../support/temp.js";

const digest = `sha256:${"a".repeat(64)}`;
const descriptor = { mediaType: mediaTypes.ociLayerTar, digest, size: 1 };
const manifest = { schemaVersion: 2, config: { ...descriptor, mediaType: mediaTypes.ociConfig }, layers: [descriptor] };
const bytesOf = (value: unknown) => Buffer.from(JSON.stringify(value));
const nested = (depth: number) => `${"[".repeat(depth)}${"]".repeat(depth)}`;

test("JSON that is nested deeper than a document can be", () => {
  const at = (depth: number) => Buffer.from(`{"a":${nested(depth - 1)}}`);
  assert.ok(parseJsonObject(at(limits.jsonDepth), "d"));
  for (const depth of [limits.jsonDepth + 1, 1_000_000]) {
    assert.match(throwsWith(() => parseJsonObject(at(depth), "d"), "limit").message, /^d: JSON nested deeper than 64$/);
  }
  // Brackets in strings do not count, and a quote behind a backslash ends none.
  assert.ok(parseJsonObject(bytesOf({ a: nested(100), b: `\\"${nested(100)}` }), "d"));
  for (const field of ["schemaVersion", "mediaType", "layers", "config", "annotations"]) {
    const hostile = JSON.stringify({ ...manifest, [field]: "@" }).replace('"@"', nested(500_000));
    throwsWith(() => parseManifest(Buffer.from(hostile), "m"), "limit");
  }
});

test("messages quote little of a document", () => {
  const long = "9".repeat(1 << 20);
  for (const hostile of [
    { ...manifest, schemaVersion: long },
    { ...manifest, layers: [{ ...descriptor, size: long }] },
    { ...manifest, layers: [{ ...descriptor, size: Array(10_000).fill(1) }] },
  ]) {
    assert.ok(throwsWith(() => parseManifest(bytesOf(hostile), "m"), "corrupt").message.length < 200);
  }
});

test("manifests of more entries, and descriptors of more URLs, than are read", () => {
  const index = (count: number) => bytesOf({ schemaVersion: 2, manifests: Array(count).fill(descriptor) });
  assert.ok(parseManifest(index(limits.indexManifests), "m"));
  throwsWith(() => parseManifest(index(limits.indexManifests + 1), "m"), "limit");
  const foreign = (count: number) =>
    bytesOf({ ...manifest, layers: [{ ...descriptor, urls: Array(count).fill("https://x.test/") }] });
  assert.ok(parseManifest(foreign(limits.descriptorUrls), "m"));
  throwsWith(() => parseManifest(foreign(limits.descriptorUrls + 1), "m"), "limit");
});

test("configs of more bytes or layers than are read", () => {
  const config = (count: number, padding = "") =>
    bytesOf({ rootfs: { type: "layers", diff_ids: Array(count).fill(digest) }, padding });
  assert.equal(parseImageConfig(config(limits.layers), "c").diffIds.length, limits.layers);
  throwsWith(() => parseImageConfig(config(limits.layers + 1), "c"), "limit");
  throwsWith(() => parseImageConfig(config(1, " ".repeat(limits.configBytes)), "c"), "limit");
});

test("a file is read up to its limit, whatever stat says of it", async (t) => {
  const directory = await tempDirectory(t);
  const path = join(directory, "f");
  await writeFile(path, Buffer.alloc(100_000, "x"));
  assert.equal((await readBounded(path, 100_000, "f")).length, 100_000);
  await rejectsWith(readBounded(path, 99_999, "f"), "limit");
  await rejectsWith(readBounded("/dev/zero", 1 << 20, "z"), "limit");
  assert.ok((await readBounded("/proc/self/status", 1 << 20, "p")).length > 0);
  const pipe = join(directory, "pipe");
  execFileSync("mkfifo", [pipe]);
  const [content] = await Promise.all([readBounded(pipe, 10, "pipe"), writeFile(pipe, "secret")]);
  assert.equal(content.toString(), "secret");
});

test("auth files and passwords without end", async () => {
  await rejectsWith(readAuthFile("/dev/zero"), "limit");
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) yield Buffer.alloc(1 << 10, "x");
  }
  const args = { username: "u", "password-stdin": true };
  await rejectsWith(readCredentials(args, { stdin: endless() }), "limit");
});

test("an index's JSON, and a tarindex, that are too large are refused before they are read", async (t) => {
  const directory = await tempDirectory(t);
  const tarindexPath = join(directory, "a.tarindex");
  const jsonPath = join(directory, "a.json");
  for (const path of [tarindexPath, jsonPath]) await (await open(path, "w")).close();
  await truncate(jsonPath, limits.indexJsonBytes + 1);
  const load = (withJson: boolean) => loadIndex({ tarindexPath, ...(withJson ? { jsonPath } : {}) });
  await rejectsWith(load(true), "limit");
  await truncate(tarindexPath, limits.tarindexBytes + 1);
  await rejectsWith(load(false), "limit");
});
