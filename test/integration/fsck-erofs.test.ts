import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { gunzipSync, gzipSync } from "node:zlib";
import { createLayerIndex } from "../../src/index/create.js";
import { memoryBlob } from "../support/blob-sources.js";
import { checkErofs } from "../support/erofs-fsck.js";
import { sharedFixture } from "../support/fixtures.js";
import { buildTar } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";

test("fsck.erofs finds our index of the erofs-utils fixture clean, data included, and finds a changed directory", async (t) => {
  const directory = await tempDirectory(t);
  const blob = await readFile(sharedFixture("erofs-utils-1.9.3/layer.tar.gz"));
  const tar = join(directory, "layer.tar");
  await writeFile(tar, gunzipSync(blob));
  const { tarindexPath } = await createLayerIndex({ source: memoryBlob(blob), output: { directory } });
  await checkErofs(tarindexPath, [tar]);
  const bytes = await readFile(tarindexPath);
  const entry = bytes.indexOf("big5mempty");
  const at = entry >= 0 ? entry : bytes.indexOf("big5m");
  assert.ok(at > 0);
  // The first dirent's name offset, in the block that holds this name: 8 bytes into the block's first entry.
  const block = Math.floor(at / 512) * 512;
  bytes.fill(0xff, block, block + 64);
  const broken = join(directory, "broken");
  await writeFile(broken, bytes);
  await assert.rejects(checkErofs(broken, [tar]));
});

test("fsck.erofs finds an index of every kind of entry clean", async (t) => {
  const directory = await tempDirectory(t);
  const bytes = buildTar([
    { path: "d", type: "directory" },
    ...Array.from({ length: 300 }, (_, i) => ({ path: `d/file-${i}`, data: Buffer.alloc(i * 7, i) })),
    { path: "link", type: "symlink", linkPath: "d/file-1" },
    { path: "hard", type: "hardlink", linkPath: "d/file-2" },
    { path: "big-owner", data: Buffer.from("x"), uid: 70000, gid: 80000 },
    { path: "fifo", type: "fifo" },
  ]);
  const tar = join(directory, "layer.tar");
  await writeFile(tar, bytes);
  const { tarindexPath } = await createLayerIndex({ source: memoryBlob(gzipSync(bytes)), output: { directory } });
  await checkErofs(tarindexPath, [tar]);
});
