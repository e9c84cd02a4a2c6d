import assert from "node:assert/strict";
import { testDrivers } from "../support/driver-suite.js";
import { Syscalls } from "../support/syscalls.js";
import { buildTar } from "../support/tar-builder.js";

const isMounted = (sys: Syscalls) =>
  sys.run<boolean>("any(line.split()[4] == mnt.decode() for line in open('/proc/self/mountinfo'))");

testDrivers("a mount's life", async (lines) => {
  await lines.test("S70: mountinfo names type, source and read-only", async () => {
    await using here = await lines.start({ flags: { nosuid: true, noatime: true } });
    const { sys } = here;
    const line = await sys.run<string[]>(
      "[line.split() for line in open('/proc/self/mountinfo') if line.split()[4] == mnt.decode()][0]",
    );
    const want = lines.inKernel
      ? / ro,nosuid,noatime - erofs test ro(,|$)/
      : / ro,nosuid,noatime - fuse\.ocifs test ro,user_id=0,group_id=0,default_permissions,allow_other$/;
    assert.match(line.join(" "), want);
  });

  await lines.test("S71: umount of an idle mount ends the session", async () => {
    await using here = await lines.start();
    const { tree, sys } = here;
    await sys.run("umount()");
    await tree.mounted.ended;
    assert.equal(await isMounted(sys), false);
    assert.deepEqual(await sys.run("os.listdir(mnt)"), []);
  });

  await lines.test("S72: a busy mount is EBUSY; umount -l frees the path and open files go on", async () => {
    await using here = await lines.start();
    const { tree, sys } = here;
    const fd = await sys.run<number>("os.open(p('big'), 0)");
    assert.equal(await sys.errno("umount()"), "EBUSY");
    await sys.run("umount(2)");
    assert.deepEqual(await sys.run("os.listdir(mnt)"), []);
    assert.equal(await sys.run(`len(os.pread(${fd}, 100_000, 7_000_000))`), 100_000);
    await sys.run(`os.close(${fd})`);
    await tree.mounted.ended;
  });

  await lines.test(
    "S73: when the daemon ends, the path is free; what waits gets EIO, later reads ENOTCONN",
    async () => {
      await using here = await lines.start();
      const { tree, sys } = here;
      // Each read on its own: where there is O_DIRECT by that, else at places far from each other.
      const fd = await sys.run<number>(`os.open(p('big'), ${lines.inKernel ? 0 : "os.O_DIRECT"})`);
      const readAt = (offset: number) => `os.preadv(${fd}, [mmap.mmap(-1, 4096)], ${offset})`;
      tree.policy = "hold";
      const waiting = sys.errno(readAt(4096));
      await tree.missed(1);
      await tree.mounted.unmount();
      assert.ok(["EIO", "ENOTCONN", "ECONNABORTED"].includes(await waiting), await waiting);
      assert.equal(await isMounted(sys), false);
      const later = await sys.errno(readAt(8 << 20));
      assert.ok(lines.afterEnd.includes(later), later);
    },
  );

  await lines.test("S74: a mount may cover another; each ends by itself", async () => {
    await using lower = await lines.mount();
    const upper = await lines.mount({ tar: buildTar([{ path: "only", data: "upper" }]), at: lower.mountpoint });
    await using sys = await Syscalls.start(lower.mountpoint);
    try {
      assert.deepEqual(await sys.run("os.listdir(mnt)"), [{ bytes: "only" }]);
      await lower.mounted.unmount();
      assert.deepEqual(await sys.run("os.pread(os.open(p('only'), 0), 10, 0)"), { bytes: "upper" });
    } finally {
      await upper[Symbol.asyncDispose]();
    }
    const ended = await sys.errno("os.listdir(mnt)");
    assert.ok(lines.afterEnd.includes(ended), ended);
    await sys.run("umount()");
    assert.equal(await isMounted(sys), false);
  });

  await lines.test("S75: the upper of two mounts goes, the lower is there again", async () => {
    await using lower = await lines.mount();
    await using upper = await lines.mount({ tar: buildTar([{ path: "only", data: "upper" }]), at: lower.mountpoint });
    await using sys = await Syscalls.start(lower.mountpoint);
    await upper.mounted.unmount();
    assert.deepEqual(await sys.run("os.pread(os.open(p('file'), 0), 10, 0)"), { bytes: "hello\n" });
  });
});
