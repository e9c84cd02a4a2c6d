import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { listTree } from "../support/kernel-erofs.js";
import { contentOf } from "../support/layer-fixture.js";
import { writeLayout } from "../support/layout.js";
import { MountSandbox } from "../support/mounted-image.js";
import { requireRootAndFuse } from "../support/requires.js";
import { buildTar } from "../support/tar-builder.js";

const tarOf = (path: string) => buildTar([{ path, data: contentOf(path, 3 << 20, false), mtime: 7 }]);
const zstd = (bytes: Uint8Array) => execFileSync("zstd", ["-q", "-c"], { input: bytes, maxBuffer: 64 << 20 });

test("gzip, zstd and plain tar layers make one tree", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const tars = ["gzip", "zstd", "tar"].map(tarOf);
  const [gzip = Buffer.alloc(0), zst = Buffer.alloc(0), tar = Buffer.alloc(0)] = tars;
  const diffIds = tars.map(digestOfBytes);
  const image = async (name: string, layers: readonly { readonly bytes: Uint8Array; readonly mediaType: string }[]) => {
    const layout = join(sandbox.directory, name);
    const described = layers.map((layer, i) => ({ ...layer, ...(diffIds[i] ? { diffId: diffIds[i] } : {}) }));
    await writeLayout(layout, [{ layers: described, tag: "t" }]);
    return `oci:${layout}:t`;
  };
  const mixed = await image("mixed", [
    { bytes: gzipSync(gzip), mediaType: mediaTypes.ociLayerGzip },
    { bytes: zstd(zst), mediaType: mediaTypes.ociLayerZstd },
    { bytes: tar, mediaType: mediaTypes.ociLayerTar },
  ]);
  const all = await image(
    "gzip",
    tars.map((bytes) => ({ bytes: gzipSync(bytes), mediaType: mediaTypes.ociLayerGzip })),
  );
  const made = await sandbox.ocifs(["index", "create", mixed, "--cachedir", sandbox.cache]);
  assert.equal(made.status, 0, made.stderr);
  const made2 = await sandbox.ocifs(["index", "create", all, "--cachedir", sandbox.cache]);
  assert.equal(made2.status, 0, made2.stderr);
  const trees: string[][] = [];
  for (const source of [mixed, all]) {
    const mountpoint = await sandbox.mountpoint();
    await sandbox.mounted([source, mountpoint]);
    for (const [i, name] of ["gzip", "zstd", "tar"].entries()) {
      assert.equal(
        digestOfBytes(await readFile(join(mountpoint, name))),
        digestOfBytes(contentOf(name, 3 << 20, false)),
      );
      assert.equal((await sandbox.status(mountpoint)).layers.length, 3, String(i));
    }
    trees.push(await listTree(mountpoint));
    await sandbox.unmount(mountpoint);
  }
  assert.deepEqual(trees[0], trees[1]);
});

test("a layer of another encoding is refused by its media type", async (t) => {
  const sandbox = await MountSandbox.open(t);
  const layout = join(sandbox.directory, "layout");
  const tar = tarOf("x");
  await writeLayout(layout, [{ layers: [{ bytes: tar, mediaType: `${mediaTypes.ociLayerTar}+xz` }], tag: "t" }]);
  const made = await sandbox.ocifs(["index", "create", `oci:${layout}:t`, "--cachedir", sandbox.cache]);
  assert.notEqual(made.status, 0);
  assert.match(
    made.stderr,
    /layer media type "application\/vnd\.oci\.image\.layer\.v1\.tar\+xz": want a tar, tar\+gzip or tar\+zstd/,
  );
});
