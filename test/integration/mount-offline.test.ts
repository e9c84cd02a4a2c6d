import assert from "node:assert/strict";
import { readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { listTree } from "../support/kernel-erofs.js";
import { writeLayout } from "../support/layout.js";
import { MountSandbox } from "../support/mounted-image.js";
import { pushImage, startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { buildTar } from "../support/tar-builder.js";

const big = Buffer.alloc(3 << 20, "bytes of the first layer, ");
const tars = [
  buildTar([
    { path: "etc", type: "directory" },
    { path: "etc/name", data: "one" },
    { path: "big", data: big },
  ]),
  buildTar([
    { path: "etc/name", data: "two" },
    { path: "other", data: "x".repeat(100_000) },
  ]),
];
const layers = tars.map((tar) => ({
  bytes: gzipSync(tar),
  mediaType: mediaTypes.ociLayerGzip,
  diffId: digestOfBytes(tar),
}));

/** An image of two layers in a registry, indexed, mounted once and read as a whole. */
async function setStage(t: TestContext) {
  const sandbox = await MountSandbox.open(t);
  const accessLogPath = join(sandbox.directory, "access.log");
  const registry = await startRegistry({ accessLogPath });
  t.after(registry.stop);
  const pushed = await pushImage(registry.host, { repository: "team/app", tag: "t", layers });
  const image = `${registry.host}/team/app`;
  const made = await sandbox.ocifs(["index", "create", `${image}:t`, "--insecure", "--cachedir", sandbox.cache]);
  assert.equal(made.status, 0, made.stderr);
  const mountpoint = await sandbox.mountpoint();
  const mount = (selector = ":t", options = "") =>
    sandbox.mount([`${image}${selector}`, mountpoint, "-o", `oci.insecure${options}`]);
  assert.deepEqual(await mount(), { status: 0, stdout: "", stderr: "" });
  const tree = await listTree(mountpoint);
  assert.equal(await readFile(join(mountpoint, "etc/name"), "utf8"), "two");
  await sandbox.unmount(mountpoint);
  const imageDirectory = join(sandbox.cache, "images", "sha256", pushed.manifest.digest.slice(7));
  /** Lines of the registry's access log so far. */
  const requests = async () => (await readFile(accessLogPath, "utf8")).split("\n").filter((line) => line !== "");
  return { sandbox, registry, pushed, mountpoint, mount, tree, imageDirectory, requests };
}

test("an image mounted before mounts while its registry is down, and what was read is there", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, registry, pushed, mountpoint, mount, tree } = await setStage(t);
  await registry.stop();
  const { status, stderr } = await mount(":t", ",timeout=1h");
  assert.equal(status, 0, stderr);
  assert.match(
    stderr,
    /^mount\.ocifs: warning: [^\n]*its registry cannot be asked; using what the tag meant [^\n]*\n$/,
  );
  assert.deepEqual(await listTree(mountpoint), tree);
  assert.equal(await readFile(join(mountpoint, "etc/name"), "utf8"), "two");
  const { bytesFetched, manifestDigest } = await sandbox.status(mountpoint);
  assert.deepEqual([bytesFetched, manifestDigest], [0, pushed.manifest.digest]);
  await sandbox.unmount(mountpoint);
  // What is not in the cache cannot be read. Names and metadata can.
  await rm(join(sandbox.cache, "blobs"), { recursive: true });
  assert.equal((await mount(`@${pushed.manifest.digest}`, ",timeout=1ms")).status, 0);
  assert.equal((await stat(join(mountpoint, "big"))).size, big.length);
  await assert.rejects(readFile(join(mountpoint, "big")), { code: "EIO" });
  await sandbox.unmount(mountpoint);
});

test("the second mount asks for the tag only, a mount by digest for nothing", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, pushed, mountpoint, mount, tree, requests } = await setStage(t);
  for (const [selector, wanted] of [
    [":t", [/"HEAD \/v2\/team\/app\/manifests\/t HTTP/]],
    [`@${pushed.manifest.digest}`, []],
  ] as const) {
    const before = (await requests()).length;
    assert.deepEqual(await mount(selector), { status: 0, stdout: "", stderr: "" });
    assert.deepEqual(await listTree(mountpoint), tree);
    const asked = (await requests()).slice(before);
    assert.equal(asked.length, wanted.length, asked.join("\n"));
    for (const [i, pattern] of wanted.entries()) assert.match(asked[i] ?? "", pattern);
    await sandbox.unmount(mountpoint);
  }
});

test("a tag that is gone is an error while the registry is up", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { registry, pushed, mount } = await setStage(t);
  const url = `http://${registry.host}/v2/team/app/manifests/${pushed.manifest.digest}`;
  assert.equal((await fetch(url, { method: "DELETE" })).status, 202);
  const { status, stderr } = await mount();
  assert.equal(status, 32);
  assert.match(stderr, /HTTP 404 \(MANIFEST_UNKNOWN/);
});

test("a damaged merged tree is made again", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, mountpoint, mount, tree, imageDirectory } = await setStage(t);
  const names = (await readdir(imageDirectory)).filter((name) => name.startsWith("tarindex-"));
  assert.equal(names.length, 2);
  const [merged = ""] = names.filter((name) => !name.endsWith(".digest"));
  const path = join(imageDirectory, merged);
  const good = await readFile(path);
  const damages = [
    () => truncate(path, good.length - 1),
    () => writeFile(path, Buffer.from(good).fill(0xff, 2000, 2001)),
    () => writeFile(`${path}.digest`, "?"),
    () => rm(path),
  ];
  for (const damage of damages) {
    await damage();
    const { status, stderr } = await mount();
    assert.equal(status, 0);
    assert.match(stderr, /the merged tarindex in the cache cannot be used; it is made again/);
    assert.deepEqual(await listTree(mountpoint), tree);
    await sandbox.unmount(mountpoint);
    assert.deepEqual(await readFile(path), good);
  }
});

test("two mounts at once with an empty store of images", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, registry, tree } = await setStage(t);
  await rm(join(sandbox.cache, "images"), { recursive: true });
  await rm(join(sandbox.cache, "refs"), { recursive: true });
  const mountpoints = await Promise.all(["a", "b", "c"].map((name) => sandbox.mountpoint(name)));
  await Promise.all(
    mountpoints.map((path) => sandbox.mounted([`${registry.host}/team/app:t`, path, "-o", "oci.insecure"])),
  );
  for (const path of mountpoints) {
    assert.deepEqual(await listTree(path), tree);
    await sandbox.unmount(path);
  }
  const [directory = ""] = await readdir(join(sandbox.cache, "images", "sha256"));
  const names = (await readdir(join(sandbox.cache, "images", "sha256", directory))).sort();
  assert.deepEqual(
    names.map((name) => name.replace(/[0-9a-f]{32}/, "KEY")),
    ["manifest.json", "tarindex-KEY", "tarindex-KEY.digest"],
  );
});

test("an OCI layout's merged tree is kept too", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layout = join(sandbox.directory, "layout");
  const [entry] = await writeLayout(layout, [{ layers, tag: "t" }]);
  const image = `oci:${layout}:t`;
  const made = await sandbox.ocifs(["index", "create", image, "--cachedir", sandbox.cache]);
  assert.equal(made.status, 0, made.stderr);
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mounted([image, mountpoint]);
  const tree = await listTree(mountpoint);
  await sandbox.unmount(mountpoint);
  const names = await readdir(join(sandbox.cache, "images", "sha256", entry?.digest.slice(7) ?? ""));
  assert.equal(names.filter((name) => name.startsWith("tarindex-")).length, 2);
  // Its layers' tarindexes are not looked at any more.
  for (const { bytes } of layers) {
    const hex = digestOfBytes(bytes).slice(7);
    const path = join(sandbox.cache, "indexes", "sha256", hex, `sha256-${hex}.tarindex`);
    await writeFile(path, Buffer.alloc((await readFile(path)).length));
  }
  await sandbox.mounted([image, mountpoint]);
  assert.deepEqual(await listTree(mountpoint), tree);
  assert.equal(await readFile(join(mountpoint, "etc/name"), "utf8"), "two");
  await sandbox.unmount(mountpoint);
});
