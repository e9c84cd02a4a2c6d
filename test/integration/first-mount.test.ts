/** Mounting an image that has no index yet: it is built from the layers as they arrive. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { verifiedDigest, type WholeFile } from "../../src/cache/verified-marks.js";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { blobDirectory } from "../support/cache-watch.js";
import { listTree } from "../support/kernel-erofs.js";
import { MountSandbox } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { pushImage, startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { buildTar } from "../support/tar-builder.js";

const shared = buildTar([
  { path: "twice/", type: "directory", mtime: 5 },
  { path: "twice/f", data: "again", mtime: 5 },
]);
const tars = [
  buildTar([
    { path: "etc/", type: "directory", mtime: 5 },
    { path: "etc/passwd", data: "root:x:0:0::/:/bin/sh\n", mtime: 5 },
    { path: "etc/gone", data: "removed above", mtime: 5 },
    { path: "big", data: randomBytes(7_000_001), mtime: 5 },
  ]),
  shared,
  buildTar([
    { path: "etc/.wh.gone", data: "" },
    { path: "words", data: Buffer.alloc(3 << 20, "words "), mtime: 6 },
  ]),
  // Nothing at all, and a layer that the image has already: both are common.
  buildTar([]),
  shared,
];

interface Stage {
  readonly sandbox: MountSandbox;
  readonly image: string;
  readonly unpacked: string[];
  readonly layers: readonly { readonly digest: Digest; readonly size: number }[];
  readonly registry: { stop(): Promise<void> };
}

async function setStage(t: TestContext): Promise<Stage> {
  const sandbox = await MountSandbox.open(t);
  const registry = await startRegistry();
  t.after(() => registry.stop());
  // One layer is served uncompressed.
  const layers = tars.map((tar, i) => ({
    bytes: i === 2 ? tar : gzipSync(tar),
    mediaType: i === 2 ? mediaTypes.ociLayerTar : mediaTypes.ociLayerGzip,
    diffId: digestOfBytes(tar),
  }));
  const pushed = await pushImage(registry.host, { repository: "some/app", tag: "v1", layers });
  const image = `${registry.host}/some/app:v1`;
  const layout = join(sandbox.directory, "layout");
  await runProgram("skopeo", ["copy", "-q", "--src-tls-verify=false", `docker://${image}`, `oci:${layout}:t`]);
  const bundle = join(sandbox.directory, "bundle");
  await runProgram("umoci", ["unpack", "--image", `${layout}:t`, bundle]);
  const unpacked = await listTree(join(bundle, "rootfs"));
  return { sandbox, image, unpacked, layers: pushed.layers, registry };
}

const insecure = ["-o", "oci.insecure"];

test("the first mount is what umoci unpacks, and everything is in the cache after it", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, image, unpacked, layers, registry } = await setStage(t);
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mountedFirst([image, mountpoint, ...insecure]);
  const first = await sandbox.status(mountpoint);
  const distinct = new Map(layers.map(({ digest, size }) => [digest, size]));
  assert.equal(first.state, "ready");
  assert.equal(
    first.bytesFetched,
    [...distinct.values()].reduce((sum, size) => sum + size, 0),
  );
  for (const layer of first.layers) {
    assert.deepEqual([layer.fetchRequests, layer.cachedSpans, layer.cache], [1, layer.spans, "disk"]);
  }
  assert.deepEqual(await listTree(mountpoint), unpacked);
  await sandbox.unmount(mountpoint);

  for (const digest of distinct.keys()) {
    const directory = blobDirectory(sandbox.cache, digest);
    const names = await readdir(directory);
    assert.deepEqual(
      names.filter((name) => name.includes("filling")),
      [],
    );
    assert.equal(await verifiedDigest(directory, "compressed"), digest);
    const data = names.filter((name) => /^data-[0-9a-f]{16}$/.test(name)) as WholeFile[];
    const tar = tars[layers.findIndex((layer) => layer.digest === digest)] ?? Buffer.alloc(0);
    assert.equal(data.length, 1);
    for (const name of data) {
      assert.ok((await readFile(join(directory, name))).equals(tar));
      assert.equal(await verifiedDigest(directory, name), digestOfBytes(tar));
    }
  }

  // The second mount asks for no blob, and needs none.
  await sandbox.mounted([image, mountpoint, ...insecure]);
  await registry.stop();
  assert.deepEqual(await listTree(mountpoint), unpacked);
  const second = await sandbox.status(mountpoint);
  assert.deepEqual(
    second.layers.map(({ fetchRequests, fetchedBytes }) => [fetchRequests, fetchedBytes]),
    second.layers.map(() => [0, 0]),
  );
});

test("two mounts at the same time fetch each byte once", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, image, unpacked, layers } = await setStage(t);
  const mountpoints = [await sandbox.mountpoint("one"), await sandbox.mountpoint("two")];
  const mounting = mountpoints.map((mountpoint) => sandbox.mountedFirst([image, mountpoint, ...insecure]));
  for (const done of await Promise.allSettled(mounting)) assert.equal(done.status, "fulfilled", JSON.stringify(done));
  let fetched = 0;
  for (const mountpoint of mountpoints) {
    assert.deepEqual(await listTree(mountpoint), unpacked);
    const { state, bytesFetched } = await sandbox.status(mountpoint);
    assert.equal(state, "ready");
    fetched += bytesFetched;
  }
  const distinct = new Map(layers.map(({ digest, size }) => [digest, size]));
  assert.equal(
    fetched,
    [...distinct.values()].reduce((sum, size) => sum + size, 0),
  );
  for (const mountpoint of mountpoints) await sandbox.unmount(mountpoint);
});

test("one layer alone is built alone, and an image is looked into without a mount", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, image, layers } = await setStage(t);
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mountedFirst([image, mountpoint, "oci.layer=1", ...insecure]);
  assert.equal(await readFile(join(mountpoint, "twice/f"), "utf8"), "again");
  const { layers: shown, bytesFetched } = await sandbox.status(mountpoint);
  assert.deepEqual([shown.length, bytesFetched], [1, layers[1]?.size]);
  await sandbox.unmount(mountpoint);
  const listed = await sandbox.ocifs(["ls", image, "etc", "--insecure", "--cachedir", sandbox.cache]);
  assert.deepEqual([listed.status, listed.stdout], [0, "passwd\n"], listed.stderr);
});
