import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { listTree } from "../support/kernel-erofs.js";
import { writeLayout } from "../support/layout.js";
import { MountSandbox } from "../support/mounted-image.js";
import { requireRootAndFuse } from "../support/requires.js";
import { buildTar, type TarItem } from "../support/tar-builder.js";

const directory = (path: string, mode = 0o755): TarItem => ({ path, type: "directory", mode, mtime: 5 });
const file = (path: string, data: string | Uint8Array, rest: Partial<TarItem> = {}): TarItem => ({
  path,
  data,
  mtime: 6,
  ...rest,
});

const big = Buffer.alloc(3 << 20, "the middle layer's own bytes, ");
const tars = [
  buildTar([
    directory("./"),
    directory("etc"),
    file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
    file("etc/gone", "removed above"),
    directory("var"),
    directory("var/lib"),
    file("var/lib/old", "hidden by an opaque directory"),
    file("one", "linked"),
    { path: "two", type: "hardlink", linkPath: "one" },
  ]),
  buildTar([file("etc/.wh.gone", ""), file("big", big), directory("var/lib", 0o700), file("var/lib/.wh..wh..opq", "")]),
  // Nothing at all: many images have such a layer.
  buildTar([]),
  buildTar([
    file(".wh.one", ""),
    directory("etc", 0o711),
    file("etc/passwd", "root:x:0:0::/root:/bin/bash\n", { mode: 0o600, uid: 3 }),
    file("var/lib/new", "new"),
    { path: "late-link", type: "hardlink", linkPath: "big" },
  ]),
];

async function setUp(t: TestContext): Promise<{ sandbox: MountSandbox; image: string; unpacked: string[] }> {
  const sandbox = await MountSandbox.open(t);
  const layout = join(sandbox.directory, "layout");
  const layers = tars.map((tar) => ({
    bytes: gzipSync(tar),
    mediaType: mediaTypes.ociLayerGzip,
    diffId: digestOfBytes(tar),
  }));
  await writeLayout(layout, [{ layers, tag: "t" }]);
  const bundle = join(sandbox.directory, "bundle");
  await promisify(execFile)("umoci", ["unpack", "--image", `${layout}:t`, bundle]);
  return { sandbox, image: `oci:${layout}:t`, unpacked: await listTree(join(bundle, "rootfs")) };
}

test("an image of several layers is indexed and mounted whole, as umoci unpacks it", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, image, unpacked } = await setUp(t);
  const made = await sandbox.ocifs(["index", "create", image, "--cachedir", sandbox.cache]);
  assert.equal(made.status, 0, made.stderr);
  assert.match(made.stderr, /layer 3 of 4: sha256:/);
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mounted([image, mountpoint]);
  assert.deepEqual(await listTree(mountpoint), unpacked);
  const { layers, state } = await sandbox.status(mountpoint);
  assert.equal(state, "ready");
  assert.equal(layers.length, 4);
  await sandbox.unmount(mountpoint);
  // One of its layers alone, and the whole again from the cache.
  await sandbox.mounted([image, mountpoint, "-o", "oci.layer=2"]);
  assert.equal((await listTree(mountpoint)).length, 1);
  await sandbox.unmount(mountpoint);
  await sandbox.mounted([image, mountpoint]);
  assert.deepEqual(await listTree(mountpoint), unpacked);
  assert.equal((await sandbox.status(mountpoint)).bytesFetched, 0);
  await sandbox.unmount(mountpoint);
});

test("a whole image is looked into without a mount", async (t) => {
  const { sandbox, image } = await setUp(t);
  const made = await sandbox.ocifs(["index", "create", image, "--cachedir", sandbox.cache, "--json"]);
  assert.equal(made.status, 0, made.stderr);
  const { layers } = JSON.parse(made.stdout) as { layers: unknown[] };
  assert.equal(layers.length, 4);
  const listed = await sandbox.ocifs(["ls", image, "/var/lib", "--cachedir", sandbox.cache]);
  assert.deepEqual(listed, { status: 0, stdout: "new\n", stderr: "" });
  const read = await sandbox.ocifs(["cat", image, "/late-link", "--cachedir", sandbox.cache]);
  assert.equal(read.stdout, big.toString());
});

test("an index of files needs a layer", async (t) => {
  const { sandbox, image } = await setUp(t);
  const mountpoint = await sandbox.mountpoint();
  const unclear = await sandbox.mount([image, mountpoint, "-o", "oci.tarindex=/nowhere"]);
  assert.equal(unclear.status, 1);
  assert.match(unclear.stderr, /the image has 4 layers and an index is of one; choose it with oci\.layer=0 to 3/);
});

test("an image of one layer is mounted as a container sees it, too", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layout = join(sandbox.directory, "layout");
  const tar = buildTar([file("kept", "here"), file(".wh.gone", "")]);
  const layer = { bytes: gzipSync(tar), mediaType: mediaTypes.ociLayerGzip, diffId: digestOfBytes(tar) };
  await writeLayout(layout, [{ layers: [layer], tag: "t" }]);
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mounted([`oci:${layout}:t`, mountpoint]);
  assert.deepEqual(await readdir(mountpoint), ["kept"]);
  await sandbox.unmount(mountpoint);
  // The layer by itself is shown as it is.
  await sandbox.mounted([`oci:${layout}:t`, mountpoint, "-o", "oci.layer=0"]);
  assert.deepEqual((await readdir(mountpoint)).sort(), [".wh.gone", "kept"]);
  await sandbox.unmount(mountpoint);
});
