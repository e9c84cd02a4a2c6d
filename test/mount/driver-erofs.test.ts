import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { mountWithBest } from "../../src/drivers/choose.js";
import type { Driver } from "../../src/drivers/driver.js";
import { erofsDriver } from "../../src/drivers/erofs.js";
import { fuseDriver } from "../../src/drivers/fuse.js";
import { requireErofs } from "../support/driver-suite.js";
import { rejectsWith } from "../support/errors.js";
import { MountSandbox, processEnd } from "../support/mounted-image.js";
import { MountedTree } from "../support/mounted-tree.js";
import { runProgram } from "../support/process.js";
import { makeSampleLayer, sampleBig } from "../support/sample-layer.js";
import { big, semanticsTar, spanBytes } from "../support/semantics-tree.js";
import { Syscalls } from "../support/syscalls.js";
import { listDirectory } from "../support/tree-listing.js";

const mountErofs = () => MountedTree.mount(semanticsTar(), { spanBytes, driver: erofsDriver });

test("the kernel's EROFS shows what FUSE shows", async (t) => {
  if (!(await requireErofs(t))) return;
  await using erofs = await mountErofs();
  await using fuse = await MountedTree.mount(semanticsTar(), { spanBytes });
  assert.deepEqual(await listDirectory(erofs.mountpoint), await listDirectory(fuse.mountpoint));
  const line = (await readFile("/proc/self/mounts", "utf8"))
    .split("\n")
    .filter((each) => each.includes(erofs.mountpoint));
  assert.match(line[0] ?? "", / erofs ro/);
  assert.equal(line.length, 1, "the FUSE mount below is at no path");
});

test("a read waits for its bytes, and one whose bytes do not come is EIO, never zeros", async (t) => {
  if (!(await requireErofs(t))) return;
  await using tree = await mountErofs();
  await using sys = await Syscalls.start(tree.mountpoint);
  tree.policy = "hold";
  const waiting = sys.run("os.pread(os.open(p('big'), 0), 100, 5_000_000)");
  await tree.missed(1);
  await tree.release();
  assert.deepEqual(await waiting, { bytes: Buffer.from(big.subarray(5_000_000, 5_000_100)).toString("latin1") });
  await tree.store.evict(0, tree.table.spanCount - 1);
  await sys.run("fd = os.open(p('big'), 0)\nos.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)");
  tree.policy = "EIO";
  // From one end to the other in pieces that lie across pages: each is right or EIO.
  const outcome = await sys.run(`
fd = os.open(p('big'), 0)
good = bad = 0
for at in range(0, ${big.length} - 4096, 3 * 4096 + 512):
    try:
        got = os.pread(fd, 4096, at)
        assert any(got), at
        good += 1
    except OSError as e:
        assert e.errno == errno.EIO, e
        bad += 1
result = [good, bad]
`);
  assert.ok(((outcome as number[])[1] ?? 0) > 0, String(outcome));
});

test("umount ends the session below, and a lazy one when the last file is closed", async (t) => {
  if (!(await requireErofs(t))) return;
  await using tree = await mountErofs();
  await using sys = await Syscalls.start(tree.mountpoint);
  const held = await sys.run("os.open(p('dir/sub/leaf'), 0)");
  await assert.rejects(runProgram("umount", [tree.mountpoint]), /busy/);
  await runProgram("umount", ["-l", tree.mountpoint]);
  await sys.run(`os.close(${held})`);
  await tree.mounted.ended;
});

test("a mount of EROFS outlives its daemon, also one that was lent the cache's own file", async (t) => {
  if (!(await requireErofs(t))) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  for (const prefetch of ["none", "all"]) {
    const mountpoint = await sandbox.mountpoint(prefetch);
    const options = `driver=erofs,prefetch=${prefetch}`;
    await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", options]);
    const { pid, driver } = await sandbox.status(mountpoint);
    assert.equal(driver, "erofs");
    process.kill(pid, "SIGKILL");
    await processEnd(pid);
    assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
    // Everything was read, so the next mount finds the layer complete if its fill was done.
    await sandbox.unmount(mountpoint);
  }
});

test("auto passes over what the system lacks, and throws what is wrong with the mount", async () => {
  const failing = (code: "unsupported" | "io"): Driver => ({
    ...erofsDriver,
    unavailable: async () => undefined,
    mount: () => Promise.reject(new OcifsError(code, "no such thing")),
  });
  const lacking: Driver = { ...fuseDriver, unavailable: async () => "it is not there" };
  const both = await rejectsWith(mountWithBest([failing("unsupported"), lacking], {} as never), "unsupported");
  assert.match(both.message, /not erofs: no such thing; not fuse: it is not there/);
  await rejectsWith(mountWithBest([failing("io"), lacking], {} as never), "io");
});
