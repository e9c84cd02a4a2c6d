import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { driverOf } from "../../src/drivers/choose.js";
import type { MountRequest } from "../../src/drivers/driver.js";
import { fuseNativeDriver } from "../../src/drivers/fuse-native.js";
import { requireFuseNative } from "../support/driver-suite.js";
import { rejectsWith } from "../support/errors.js";
import { listTree } from "../support/kernel-erofs.js";
import { MountSandbox, processEnd } from "../support/mounted-image.js";
import { MountedTree } from "../support/mounted-tree.js";
import { runProgram } from "../support/process.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, sampleBig } from "../support/sample-layer.js";
import { Syscalls } from "../support/syscalls.js";
import { buildTar } from "../support/tar-builder.js";

/** The sample layer by a daemon with a keeper. */
async function mountSample(sandbox: MountSandbox, driver: string, name?: string) {
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint(name);
  await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", `driver=${driver}`]);
  const { pid, keeperPid, driver: got, driverReason } = await sandbox.status(mountpoint);
  return { mountpoint, pid, keeper: keeperPid ?? assert.fail("the daemon has no keeper"), driver: got, driverReason };
}

test("it shows what the driver fuse shows, and ends by umount and by SIGTERM, whatever the mountpoint is called", async (t) => {
  if (!(await requireFuseNative(t))) return;
  const sandbox = await MountSandbox.open(t);
  // The package would hand this to a shell when it unmounts. The daemon's working directory is the root.
  const odd = await mountSample(sandbox, "fuse-native", "a, $(touch ocifs-shell-ran) b");
  assert.deepEqual([odd.driver, odd.driverReason], ["fuse-native", "asked for"]);
  const fuse = await mountSample(sandbox, "fuse", "fuse");
  assert.deepEqual(await listTree(odd.mountpoint), await listTree(fuse.mountpoint));
  assert.deepEqual(await readFile(join(odd.mountpoint, "big")), sampleBig);
  await sandbox.unmount(fuse.mountpoint);
  process.kill(odd.keeper, "SIGTERM");
  for (const each of [odd.pid, odd.keeper]) await processEnd(each);
  assert.deepEqual(await sandbox.mounts(), []);

  const again = await mountSample(sandbox, "fuse-native");
  await sandbox.unmount(again.mountpoint);
  assert.deepEqual(await sandbox.mounts(), []);
  await assert.rejects(readFile("/ocifs-shell-ran"), { code: "ENOENT" });
});

test("SIGTERM while a file is open frees the path and ends the daemon; the file fails", async (t) => {
  if (!(await requireFuseNative(t))) return;
  const sandbox = await MountSandbox.open(t);
  const { mountpoint, pid, keeper } = await mountSample(sandbox, "fuse-native");
  await using sys = await Syscalls.start(mountpoint);
  const held = await sys.run("os.open(p('big'), os.O_DIRECT)");
  process.kill(keeper, "SIGTERM");
  for (const each of [pid, keeper]) await processEnd(each);
  assert.deepEqual(await sandbox.mounts(), []);
  assert.equal(await sys.errno(`os.preadv(${held}, [mmap.mmap(-1, 4096)], 8192)`), "ENOTCONN");
});

test("a mount ends with its daemon: upgrade refuses, and after SIGKILL it is ENOTCONN until umount", async (t) => {
  if (!(await requireFuseNative(t))) return;
  const sandbox = await MountSandbox.open(t);
  const { mountpoint, pid, keeper } = await mountSample(sandbox, "fuse-native");
  const upgrade = await sandbox.ocifs(["upgrade"]);
  assert.notEqual(upgrade.status, 0);
  assert.match(upgrade.stderr, /this mount \(driver fuse-native\) ends with its daemon; unmount it/);
  assert.equal((await sandbox.status(mountpoint)).pid, pid);
  process.kill(pid, "SIGKILL");
  for (const each of [pid, keeper]) await processEnd(each);
  await assert.rejects(readFile(join(mountpoint, "big")), { code: "ENOTCONN" });
  await runProgram("umount", [mountpoint]);
  assert.deepEqual(await sandbox.mounts(), []);
});

test("names that are not UTF-8 are not there, nor taken for others; a link target that is not is EOPNOTSUPP", async (t) => {
  if (!(await requireFuseNative(t))) return;
  const tar = buildTar([
    { path: "plain", data: "1" },
    { path: "grüße", data: "2" },
    { path: Buffer.from([0x61, 0xff]), data: "3" },
    { path: Buffer.from([0x61, 0xfe]), data: "4" },
    // What both would be taken for.
    { path: "a\ufffd", data: "5" },
    { path: "link", type: "symlink", linkPath: Buffer.from([0x62, 0xff]) },
    { path: "times", data: "", mtime: -1000 },
    { path: "wide", data: "wide", pax: { mtime: "1234567890.987654321" } },
  ]);
  await using tree = await MountedTree.mount(tar, { driver: fuseNativeDriver });
  await using sys = await Syscalls.start(tree.mountpoint);
  const names = await sys.run("sorted(name.decode() for name in os.listdir(mnt))");
  assert.deepEqual(names, ["grüße", "link", "plain", "times", "wide"].sort());
  assert.deepEqual(await sys.run("open(p('grüße'), 'rb').read()"), { bytes: "2" });
  for (const name of ["b'a\\xff'", "b'a\\xfe'", "'a\\ufffd'", "b'a\\xff/below'"]) {
    assert.equal(await sys.errno(`os.stat(p(${name}))`), "ENOENT", name);
  }
  assert.equal(await sys.errno("os.readlink(p('link'))"), "ENOTSUP");
  assert.equal(await sys.run("os.stat(p('times')).st_mtime_ns"), 0, "no time before 1970");
  assert.equal(await sys.run("str(os.stat(p('wide')).st_mtime_ns)"), "1234567890987000000", "milliseconds");
  assert.ok((await sys.run<unknown[]>("os.listdir(mnt)")).length > 0);
});

test("what it cannot do is said before anything is mounted, and what fails leaves nothing", async (t) => {
  if (!requireRootAndFuse(t) || !(await requireFuseNative(t))) return;
  assert.equal(driverOf("fuse-native"), fuseNativeDriver);
  const why = (request: object) => fuseNativeDriver.unavailable(request as MountRequest);
  const plain = { mountpoint: "/mnt", flags: {}, securityOptions: [] };
  assert.equal(await why(plain), undefined);
  assert.match((await why({ ...plain, flags: { nosymfollow: true } })) ?? "", /nosymfollow/);
  assert.match((await why({ ...plain, securityOptions: ["context=a"] })) ?? "", /context=a/);
  assert.match((await why({ ...plain, mountpoint: `/${"m".repeat(1023)}` })) ?? "", /1023 bytes/);
  const at = join(tmpdir(), "ocifs-no-such-mountpoint");
  const tar = buildTar([{ path: "x", data: "x" }]);
  await rejectsWith(MountedTree.mount(tar, { driver: fuseNativeDriver, at }), "io");
});
