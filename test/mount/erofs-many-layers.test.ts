import assert from "node:assert/strict";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { requireErofs } from "../support/driver-suite.js";
import { noise } from "../support/gzip.js";
import { writeLayout } from "../support/layout.js";
import { MountSandbox } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { makeSampleLayer } from "../support/sample-layer.js";
import { buildTar } from "../support/tar-builder.js";

/** As many as overlayfs, and so every builder, can have. */
const layerCount = 127;
/** Half a block more than a page, so that the next file's pages lie across those of the device. */
const contentOf = (layer: number) => noise(4096 + 256 + layer, layer + 1);

/** Every layer has a file of its own, writes over that of the layer before it, and takes one away of the layer before that. */
function tarOf(layer: number): Uint8Array {
  return buildTar([
    { path: `layer-${layer}`, data: contentOf(layer) },
    { path: "last", data: `${layer}` },
    { path: `odd-${layer}`, data: `odd ${layer}` },
    ...(layer > 0 ? [{ path: `.wh.odd-${layer - 1}`, data: "" }] : []),
  ]);
}

async function writeImage(sandbox: MountSandbox, name: string): Promise<string> {
  const layout = join(sandbox.directory, name);
  const layers = Array.from({ length: layerCount }, (_, layer) => {
    const tar = tarOf(layer);
    return { bytes: gzipSync(tar), mediaType: mediaTypes.ociLayerGzip, diffId: digestOfBytes(tar) };
  });
  await writeLayout(layout, [{ layers, tag: "t" }]);
  return `oci:${layout}:t`;
}

async function checkContent(mountpoint: string): Promise<void> {
  for (let layer = 0; layer < layerCount; layer++) {
    assert.deepEqual(await readFile(join(mountpoint, `layer-${layer}`)), Buffer.from(contentOf(layer)), String(layer));
  }
  const last = String(layerCount - 1);
  assert.equal(await readFile(join(mountpoint, "last"), "latin1"), last);
  const names = await readdir(mountpoint);
  assert.deepEqual(
    names.filter((name) => name.startsWith("odd-")),
    [`odd-${last}`],
  );
  assert.equal(names.length, layerCount + 2);
}

/** How many layers' tars in a cache were lent to the kernel. */
async function lentCount(cache: string): Promise<number> {
  const marked = await runProgram("getfattr", ["-R", "-P", "--absolute-names", "-m", "^user.ocifs.lent$", cache]);
  return marked.split("\n").filter((line) => line === "user.ocifs.lent").length;
}

async function setUp(t: TestContext, name: string) {
  const sandbox = await MountSandbox.open(t);
  const image = await writeImage(sandbox, "layout");
  return { sandbox, image, cache: join(sandbox.directory, name) };
}

test("an image of 127 layers: each a device of its own, then each the cache's own file, whatever the cache's path", async (t) => {
  if (!(await requireErofs(t))) return;
  const { sandbox, image, cache } = await setUp(t, "a cache, with: odd,names");
  const mountpoint = await sandbox.mountpoint("mount, of: it");
  const options = `driver=erofs,cachedir="${cache}"`;
  // With a limit the cache lends nothing.
  await sandbox.mountedFirst([image, mountpoint, "-o", `${options},cachesize=1G,prefetch=all`]);
  await checkContent(mountpoint);
  const first = await sandbox.status(mountpoint);
  assert.ok(first.reads >= layerCount, `${first.reads} reads of device files`);
  assert.equal(first.driver, "erofs");
  assert.equal(first.layers.length, layerCount);
  assert.equal(await lentCount(cache), 0);
  // What is not marked as whole when it is unmounted is checked by the next mount, which does not lend it before.
  while ((await sandbox.status(mountpoint)).layers.some(({ fill }) => fill.state !== "done")) await nextTurn();
  await sandbox.unmount(mountpoint);

  await sandbox.mounted([image, mountpoint, "-o", options]);
  await checkContent(mountpoint);
  const second = await sandbox.status(mountpoint);
  assert.ok(second.reads < layerCount, `${second.reads} reads, of the index alone`);
  assert.equal(await lentCount(cache), layerCount);
  await sandbox.unmount(mountpoint);
});

test("a source of any length is mounted, and its name shown where the kernel takes it", async (t) => {
  if (!(await requireErofs(t))) return;
  const sandbox = await MountSandbox.open(t);
  for (const length of [20, 200, 250]) {
    const directory = join(sandbox.directory, "d".repeat(length));
    await mkdir(directory);
    const layer = await makeSampleLayer(directory);
    const mountpoint = await sandbox.mountpoint();
    const source = `file:${layer.blobPath}`;
    await sandbox.mounted([source, mountpoint, ...layer.words, "-o", "driver=erofs"]);
    assert.equal(await readFile(join(mountpoint, "hello"), "latin1"), "hello \n");
    const shown = (await runProgram("findmnt", ["-n", "-o", "SOURCE", mountpoint])).trim();
    if (source.length <= 255) assert.equal(shown, source);
    else assert.match(shown, /^\/proc\/self\/fd\/\d+$/);
    await sandbox.unmount(mountpoint);
  }
});
