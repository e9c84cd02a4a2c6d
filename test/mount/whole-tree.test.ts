import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { sharedFixture } from "../support/fixtures.js";
import { listTree, mountErofs } from "../support/kernel-erofs.js";
import { MountSandbox } from "../support/mounted-image.js";
import { pushImage, startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { Syscalls } from "../support/syscalls.js";

const fixture = (name: string) => sharedFixture(`erofs-utils-1.9.3/${name}`);
const expectedListing = async () => (await readFile(fixture("layer.expected.jsonl"), "utf8")).trimEnd().split("\n");
const gzipLayer = "application/vnd.oci.image.layer.v1.tar+gzip";

/** Each zinfo of another tool, with the blob and the tarindex that it belongs to. */
const foreignIndexes = [
  { zinfo: "layer.zinfo", blob: "layer.tar.gz", tarindex: "layer.tarindex" },
  { zinfo: "layer.v1.zinfo", blob: "layer.tar.gz", tarindex: "layer.tarindex" },
  { zinfo: "multi-member.erofs.zinfo", blob: "multi-member.tar.gz", tarindex: "multi-member.tarindex" },
  { zinfo: "multi-member.soci.zinfo", blob: "multi-member.tar.gz", tarindex: "multi-member.tarindex" },
];

for (const { zinfo, blob, tarindex } of foreignIndexes) {
  test(`the whole tree by ${zinfo}, from a file and from a registry`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const sandbox = await MountSandbox.open(t);
    const expected = await expectedListing();
    const index = [`oci.tarindex=${fixture(tarindex)}`, `oci.zinfo=${fixture(zinfo)}`];
    const fromFile = await sandbox.mountpoint("file");
    await sandbox.mounted([`file:${fixture(blob)}`, fromFile, ...index, "-o", `log=debug:${sandbox.directory}/log`]);
    assert.deepEqual(await listTree(fromFile), expected);

    const registry = await startRegistry();
    t.after(registry.stop);
    await pushImage(registry.host, {
      repository: "fixtures/layer",
      tag: "1",
      layers: [{ path: fixture(blob), mediaType: gzipLayer }],
    });
    const fromRegistry = await sandbox.mountpoint("registry");
    const cold = `cachedir=${sandbox.directory}/cold`;
    const args = [`${registry.host}/fixtures/layer:1`, fromRegistry, ...index, "-o", `oci.insecure,${cold}`];
    await sandbox.mounted(args);
    assert.deepEqual(await listTree(fromRegistry), expected);
    const status = await sandbox.status(fromRegistry);
    assert.equal(status.problem, null);
    assert.equal(status.errors, 0);
    assert.ok(status.bytesFetched > 0 && status.bytesFetched <= status.bytesTotal, `${status.bytesFetched} bytes`);
    await sandbox.unmount(fromRegistry);
    await sandbox.unmount(fromFile);
  });
}

test("the whole tree by an index of ours: cold, warm without the registry, and as the kernel's EROFS sees it", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const registry = await startRegistry();
  t.after(registry.stop);
  const blob = fixture("layer.tar.gz");
  const tar = gunzipSync(await readFile(blob));
  await pushImage(registry.host, {
    repository: "fixtures/layer",
    tag: "1",
    layers: [{ path: blob, mediaType: gzipLayer, diffId: digestOfBytes(tar) }],
  });
  const reference = `${registry.host}/fixtures/layer:1`;
  const index = join(sandbox.directory, "index");
  const options = ["--insecure", "-o", index, "--cachedir", sandbox.cache, "--whiteouts", "overlay", "--json"];
  const created = await sandbox.ocifs(["index", "create", reference, ...options]);
  assert.equal(created.status, 0, created.stderr);
  const { tarindex, zinfo } = JSON.parse(created.stdout) as { tarindex: string; zinfo: string };
  const words = [`oci.tarindex=${tarindex}`, `oci.zinfo=${zinfo}`];

  const tarPath = join(sandbox.directory, "tar");
  await writeFile(tarPath, tar);
  await using kernel = await mountErofs(tarindex, [tarPath]);
  const expected = await listTree(kernel.directory);
  assert.equal(expected.length, (await expectedListing()).length);

  const cold = await sandbox.mountpoint("cold");
  await sandbox.mounted([reference, cold, ...words, "-o", "oci.insecure,verify=span"]);
  assert.deepEqual(await listTree(cold), expected);
  const first = await sandbox.status(cold);
  assert.ok(first.bytesFetched > 0);
  assert.deepEqual([first.errors, first.problem, first.layers[0]?.cache], [0, null, "disk"]);
  await sandbox.unmount(cold);

  const warm = await sandbox.mountpoint("warm");
  await sandbox.mounted([reference, warm, ...words, "-o", "oci.insecure"]);
  await registry.stop();
  assert.deepEqual(await listTree(warm), expected);
  const second = await sandbox.status(warm);
  assert.deepEqual([second.bytesFetched, second.readMisses, second.hitRatio], [0, 0, 1]);
  await sandbox.unmount(warm);

  const local = await sandbox.mountpoint("local");
  await sandbox.mounted([`file:${blob}`, local, ...words]);
  assert.deepEqual(await listTree(local), expected);
  assert.equal((await sandbox.status(local)).bytesFetched, 0, "the cache goes by digest, not by source");
  await sandbox.unmount(local);
});

test("random reads by several processes at once are the tar's bytes", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const mountpoint = await sandbox.mountpoint();
  const words = [`oci.tarindex=${fixture("layer.tarindex")}`, `oci.zinfo=${fixture("layer.zinfo")}`];
  await sandbox.mounted([`file:${fixture("layer.tar.gz")}`, mountpoint, ...words]);
  // The same bytes, by the kernel's EROFS over index and tar.
  const flat = join(sandbox.directory, "flat");
  const tar = gunzipSync(await readFile(fixture("layer.tar.gz")));
  await writeFile(flat, Buffer.concat([await readFile(fixture("layer.tarindex")), tar]));
  await using kernel = await mountErofs(flat);
  const reader = async (seed: number) => {
    await using sys = await Syscalls.start(mountpoint);
    const code = `
import random
order, files = random.Random(${seed}), []
for directory, _, names in os.walk(mnt):
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) > 0: files.append(path)
files.sort()
wrong, count = [], 0
for _ in range(400):
    path = order.choice(files)
    size = os.path.getsize(path)
    at, length = order.randrange(size), order.choice([1, 100, 4096, 65_536, 2_000_000])
    ours, theirs = os.open(path, 0), os.open(${JSON.stringify(kernel.directory)}.encode() + path[len(mnt):], 0)
    if os.pread(ours, length, at) != os.pread(theirs, length, at): wrong.append([os.fsdecode(path), at, length])
    os.close(ours), os.close(theirs)
    count += 1
result = [count, wrong]
`;
    assert.deepEqual(await sys.run(code), [400, []]);
  };
  await Promise.all([11, 12, 13, 14, 15].map(reader));
  await sandbox.unmount(mountpoint);
});
