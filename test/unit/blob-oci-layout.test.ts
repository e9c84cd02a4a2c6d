import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { promisify } from "node:util";
import { openFileBlob } from "../../src/blob/file.js";
import { openOciLayout } from "../../src/blob/oci-layout.js";
import { digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { writeLayout } from "../support/layout.js";

const amd64 = parsePlatform("linux/amd64");
const layerOf = (text: string) => [{ bytes: Buffer.from(text), mediaType: mediaTypes.ociLayerTar }];

describe("OCI layout", () => {
  let directory = "";
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "ocifs-layout-"));
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  test("finds images by tag, by digest, and the only one", async () => {
    const [one, two] = await writeLayout(directory, [
      { layers: layerOf("one"), tag: "v1" },
      { layers: layerOf("two"), tag: "v2" },
    ]);
    assert.ok(one && two);
    for (const [selector, digest] of [
      [{ tag: "v1" }, one.digest],
      [{ tag: "v2" }, two.digest],
      [{ digest: two.digest }, two.digest],
      [{ tag: "v1", digest: one.digest }, one.digest],
    ] as const) {
      await using image = await openOciLayout(directory, selector);
      const resolved = await image.resolve(amd64);
      assert.equal(resolved.manifestDigest, digest);
      assert.equal((await image.fetchConfig(resolved)).diffIds.length, 1);
    }
    await using missing = await openOciLayout(directory, { tag: "v3" });
    assert.match((await rejectsWith(missing.resolve(amd64), "not-found")).message, /there is v1, v2/);
    await using crossed = await openOciLayout(directory, { tag: "v1", digest: two.digest });
    await rejectsWith(crossed.resolve(amd64), "not-found");
    await using ambiguous = await openOciLayout(directory);
    assert.match((await rejectsWith(ambiguous.resolve(amd64), "usage")).message, /choose one of v1, v2/);
  });

  test("entries without tags, or of one tag, are platforms of one image", async () => {
    for (const tag of [undefined, "v1"]) {
      const named = tag === undefined ? {} : { tag };
      const [, arm] = await writeLayout(directory, [
        { layers: layerOf("amd64"), platform: { os: "linux", architecture: "amd64" }, ...named },
        { layers: layerOf("arm64"), platform: { os: "linux", architecture: "arm64" }, ...named },
      ]);
      await using image = await openOciLayout(directory, named);
      assert.equal((await image.resolve(parsePlatform("linux/arm64"))).manifestDigest, arm?.digest);
    }
  });

  test("a blob whose bytes or size are not those of its descriptor is mismatch", async () => {
    const [entry] = await writeLayout(directory, [{ layers: layerOf("layer") }]);
    await using image = await openOciLayout(directory);
    const resolved = await image.resolve(amd64);
    const [layer] = resolved.manifest.layers;
    assert.ok(entry && layer);
    await writeFile(join(directory, "blobs", "sha256", hexOf(layer.digest)), "longer layer");
    await rejectsWith(image.openBlob(layer), "mismatch");
    await rm(join(directory, "blobs", "sha256", hexOf(layer.digest)));
    await rejectsWith(image.openBlob(layer), "not-found");
    await writeFile(join(directory, "blobs", "sha256", hexOf(entry.digest)), Buffer.alloc(entry.size, " "));
    await rejectsWith(image.resolve(amd64), "mismatch");
  });

  test("closing the layout closes its blobs", async () => {
    await writeLayout(directory, [{ layers: layerOf("layer") }]);
    const image = await openOciLayout(directory);
    const [layer] = (await image.resolve(amd64)).manifest.layers;
    assert.ok(layer);
    const blob = await image.openBlob(layer);
    await image[Symbol.asyncDispose]();
    await rejectsWith(collect(blob.fetchRange(0, 1)), "aborted");
    await rejectsWith(image.openBlob(layer), "aborted");
  });

  test("a digest in index.json cannot lead out of the directory", async () => {
    await writeLayout(directory, []);
    const descriptor = { mediaType: mediaTypes.ociManifest, digest: "sha256:../../../etc/passwd", size: 1 };
    await writeFile(join(directory, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [descriptor] }));
    await rejectsWith(openOciLayout(directory), "corrupt");
  });

  test("what is no layout, or one of another version, is an error", async () => {
    await rejectsWith(openOciLayout(join(directory, "absent")), "not-found");
    await rejectsWith(openOciLayout(directory), "not-found");
    await writeLayout(directory, [], "2.0.0");
    await rejectsWith(openOciLayout(directory), "unsupported");
    await writeLayout(directory, []);
    await writeFile(join(directory, "index.json"), "{");
    await rejectsWith(openOciLayout(directory), "corrupt");
  });
});

describe("file blobs", () => {
  let directory = "";
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "ocifs-file-"));
  });
  afterEach(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  test("the digest is computed, or taken as given", async () => {
    const path = join(directory, "blob");
    await writeFile(path, "content");
    await using computed = await openFileBlob(path);
    assert.equal(computed.digest, digestOfBytes(Buffer.from("content")));
    const given = digestOfBytes(Buffer.from("what the caller knows"));
    await using trusted = await openFileBlob(path, { digest: given });
    assert.equal(trusted.digest, given);
    await rejectsWith(openFileBlob(path, { sizeBytes: 8 }), "mismatch");
    await rejectsWith(openFileBlob(path, { signal: AbortSignal.abort() }), "aborted");
  });

  test("directories and FIFOs are usage, and nothing waits for a FIFO's writer", async () => {
    await mkdir(join(directory, "dir"));
    await promisify(execFile)("mkfifo", [join(directory, "fifo")]);
    await rejectsWith(openFileBlob(join(directory, "dir")), "usage");
    await rejectsWith(openFileBlob(join(directory, "fifo")), "usage");
    await rejectsWith(openFileBlob(join(directory, "absent")), "not-found");
  });

  test("a file that shrank is mismatch, not zeros", async () => {
    const path = join(directory, "blob");
    await writeFile(path, "0123456789");
    await using blob = await openFileBlob(path);
    await writeFile(path, "0123");
    await rejectsWith(collect(blob.fetchRange(2, 8)), "mismatch");
  });
});
