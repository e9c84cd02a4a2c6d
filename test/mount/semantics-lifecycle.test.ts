import assert from "node:assert/strict";
import { test } from "node:test";
import { MountedTree } from "../support/mounted-tree.js";
import { requireRootAndFuse } from "../support/requires.js";
import { semanticsTar, spanBytes } from "../support/semantics-tree.js";
import { Syscalls } from "../support/syscalls.js";
import { buildTar } from "../support/tar-builder.js";

const isMounted = (sys: Syscalls) =>
  sys.run<boolean>("any(line.split()[4] == mnt.decode() for line in open('/proc/self/mountinfo'))");

test("a mount's life", async (t) => {
  if (!requireRootAndFuse(t)) return;

  await t.test("S70: mountinfo names type, source and read-only", async () => {
    await using tree = await MountedTree.mount(semanticsTar(), { spanBytes, flags: { nosuid: true, noatime: true } });
    await using sys = await Syscalls.start(tree.mountpoint);
    const line = await sys.run<string[]>(
      "[line.split() for line in open('/proc/self/mountinfo') if line.split()[4] == mnt.decode()][0]",
    );
    assert.match(
      line.join(" "),
      / ro,nosuid,noatime - fuse\.ocifs test ro,user_id=0,group_id=0,default_permissions,allow_other$/,
    );
  });

  await t.test("S71: umount of an idle mount ends the session", async () => {
    await using tree = await MountedTree.mount(semanticsTar(), { spanBytes });
    await using sys = await Syscalls.start(tree.mountpoint);
    await sys.run("umount()");
    await tree.mounted.ended;
    assert.equal(await isMounted(sys), false);
    assert.deepEqual(await sys.run("os.listdir(mnt)"), []);
  });

  await t.test("S72: a busy mount is EBUSY; umount -l frees the path and open files go on", async () => {
    await using tree = await MountedTree.mount(semanticsTar(), { spanBytes });
    await using sys = await Syscalls.start(tree.mountpoint);
    const fd = await sys.run<number>("os.open(p('big'), 0)");
    assert.equal(await sys.errno("umount()"), "EBUSY");
    await sys.run("umount(2)");
    assert.deepEqual(await sys.run("os.listdir(mnt)"), []);
    assert.equal(await sys.run(`len(os.pread(${fd}, 100_000, 7_000_000))`), 100_000);
    await sys.run(`os.close(${fd})`);
    await tree.mounted.ended;
  });

  await t.test("S73: when the daemon ends, the path is free; what waits gets EIO, later reads ENOTCONN", async () => {
    await using tree = await MountedTree.mount(semanticsTar(), { spanBytes });
    await using sys = await Syscalls.start(tree.mountpoint);
    const fd = await sys.run<number>("os.open(p('big'), os.O_DIRECT)");
    tree.policy = "hold";
    const waiting = sys.errno(`os.preadv(${fd}, [mmap.mmap(-1, 4096)], 4096)`);
    await tree.missed(1);
    await tree.mounted.unmount();
    assert.ok(["EIO", "ENOTCONN", "ECONNABORTED"].includes(await waiting), await waiting);
    assert.equal(await isMounted(sys), false);
    assert.equal(await sys.errno(`os.preadv(${fd}, [mmap.mmap(-1, 4096)], 8192)`), "ENOTCONN");
  });

  await t.test("S74: a mount may cover another; each ends by itself", async () => {
    await using lower = await MountedTree.mount(semanticsTar(), { spanBytes });
    const upper = await MountedTree.mount(buildTar([{ path: "only", data: "upper" }]), { at: lower.mountpoint });
    await using sys = await Syscalls.start(lower.mountpoint);
    try {
      assert.deepEqual(await sys.run("os.listdir(mnt)"), [{ bytes: "only" }]);
      await lower.mounted.unmount();
      assert.deepEqual(await sys.run("os.pread(os.open(p('only'), 0), 10, 0)"), { bytes: "upper" });
    } finally {
      await upper[Symbol.asyncDispose]();
    }
    assert.equal(await sys.errno("os.listdir(mnt)"), "ENOTCONN");
    await sys.run("umount()");
    assert.equal(await isMounted(sys), false);
  });

  await t.test("S75: the upper of two mounts goes, the lower is there again", async () => {
    await using lower = await MountedTree.mount(semanticsTar(), { spanBytes });
    await using upper = await MountedTree.mount(buildTar([{ path: "only", data: "upper" }]), { at: lower.mountpoint });
    await using sys = await Syscalls.start(lower.mountpoint);
    await upper.mounted.unmount();
    assert.deepEqual(await sys.run("os.pread(os.open(p('file'), 0), 10, 0)"), { bytes: "hello\n" });
  });
});
