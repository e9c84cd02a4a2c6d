import assert from "node:assert/strict";
import { mkdtemp, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { gunzipSync } from "node:zlib";
import { type CreatedIndex, createLayerIndex } from "../../src/index/create.js";
import { memoryBlob } from "../support/blob-sources.js";
import { sharedFixture } from "../support/fixtures.js";
import { cannotMountErofs, listTree, mountErofs } from "../support/kernel-erofs.js";

describe("the kernel mounts a tarindex of the sample layer", { skip: cannotMountErofs }, () => {
  let directory = "";
  let tarPath = "";
  let created: CreatedIndex;
  let expected: string[] = [];

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "ocifs-index-"));
    const gz = await readFile(sharedFixture("erofs-utils-1.9.3/layer.tar.gz"));
    tarPath = join(directory, "layer.tar");
    await writeFile(tarPath, gunzipSync(gz));
    created = await createLayerIndex({
      source: memoryBlob(gz),
      output: { directory },
      whiteouts: "overlay",
    });
    // The tar has no entry for its root. The other tool took the builder's directory (0777, build time) for it, and for the
    // directories without entries below it; ocifs takes 0755 and time 0.
    const otherDefault = '"mode": "0o777", "mtime_ns": 1600000000000000000';
    expected = (await readFile(sharedFixture("erofs-utils-1.9.3/layer.expected.jsonl"), "utf8"))
      .trimEnd()
      .replaceAll(otherDefault, '"mode": "0o755", "mtime_ns": 0')
      .split("\n");
  });
  after(() => rm(directory, { recursive: true }));

  it("with the tar as its device", async () => {
    await using mount = await mountErofs(created.tarindexPath, [tarPath]);
    assert.deepEqual(await listTree(mount.directory), expected);
  });

  it("as one flat file, index then tar", async () => {
    const flat = join(directory, "flat");
    await writeFile(flat, Buffer.concat([await readFile(created.tarindexPath), await readFile(tarPath)]));
    await using mount = await mountErofs(flat);
    assert.deepEqual(await listTree(mount.directory), expected);
  });

  it("whose device begins where the file ends", async () => {
    await using file = await open(created.tarindexPath);
    const slot = Buffer.alloc(128);
    await file.read(slot, 0, slot.length, 1152);
    assert.equal(slot.readUInt32LE(68) * 512, (await stat(created.tarindexPath)).size);
    assert.equal(slot.readUInt32LE(64) * 512, created.manifest.tar.endOffset);
  });
});
