import assert from "node:assert/strict";
import { testDrivers } from "../support/driver-suite.js";

/** Everything that would change the tree. */
const changes = [
  "os.open(p('file'), os.O_WRONLY)",
  "os.open(p('file'), os.O_RDWR)",
  "os.open(p('file'), os.O_RDONLY | os.O_TRUNC)",
  "os.open(p('file'), os.O_WRONLY | os.O_APPEND)",
  "os.open(p('new'), os.O_RDONLY | os.O_CREAT)",
  "os.open(mnt, os.O_TMPFILE | os.O_RDWR)",
  "os.truncate(p('file'), 0)",
  "os.mkdir(p('new'))",
  "os.mknod(p('new'))",
  "os.mkfifo(p('new'))",
  "os.symlink('x', p('new'))",
  "os.link(p('file'), p('new'))",
  "os.rename(p('file'), p('new'))",
  "os.unlink(p('file'))",
  "os.unlink(p('missing'))",
  "os.rmdir(p('dir'))",
  "os.chmod(p('file'), 0o600)",
  "os.chown(p('file'), 0, 0)",
  "os.chown(p('link'), 0, 0, follow_symlinks=False)",
  "os.utime(p('file'))",
  "os.setxattr(p('file'), 'user.x', b'1')",
  "os.removexattr(p('attrs'), 'user.one')",
  "check(libc.access(p('file'), os.W_OK))",
  "socket.socket(socket.AF_UNIX).bind(p('new'))",
];

testDrivers("a tree that cannot change", async (lines) => {
  await using here = await lines.start();
  const { sys } = here;

  await lines.test("S50: every change is EROFS", async () => {
    for (const change of changes) assert.equal(await sys.errno(change), "EROFS", change);
  });

  await lines.test("S51: making what exists is EEXIST, opening it with O_CREAT is fine", async () => {
    assert.equal(await sys.errno("os.mkdir(p('dir'))"), "EEXIST");
    assert.equal(await sys.errno("os.open(p('file'), os.O_CREAT | os.O_EXCL)"), "EEXIST");
    assert.deepEqual(await sys.run("os.read(os.open(p('file'), os.O_CREAT), 10)"), { bytes: "hello\n" });
  });

  await lines.test("S52: a descriptor for reading cannot write: EBADF", async () => {
    assert.equal(await sys.errno("os.write(os.open(p('file'), 0), b'x')"), "EBADF");
    assert.equal(await sys.errno("check(libc.fallocate(os.open(p('file'), 0), 0, 0, 10))"), "EBADF");
    assert.equal(await sys.errno("os.ftruncate(os.open(p('file'), 0), 0)"), "EINVAL");
  });

  await lines.test("S53: reading changes no times", async () => {
    const times = "(s := os.stat(p('big'))) and [s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns]";
    const before = await sys.run(times);
    await sys.run("open(p('big'), 'rb').read(100_000) and os.listdir(mnt) and None");
    assert.deepEqual(await sys.run(times), before);
  });

  await lines.test("S54: after remount,rw by root the daemon itself refuses every change", async () => {
    await using remounted = await lines.start();
    const { sys: calls } = remounted;
    await calls.run("remount(0)");
    // Opening for writing asks nobody, and O_TMPFILE is no operation of ours.
    const opens = ["os.O_WRONLY)", "os.O_RDWR)", "os.O_APPEND)", "os.O_TMPFILE | os.O_RDWR)", "os.W_OK))"];
    for (const change of changes.filter((c) => !opens.some((end) => c.endsWith(end)))) {
      const want = change.includes("missing") && !lines.inKernel ? "ENOENT" : "EROFS";
      assert.equal(await calls.errno(change), want, change);
    }
    const temporary = "os.open(mnt, os.O_TMPFILE | os.O_RDWR)";
    assert.equal(await calls.errno(temporary), lines.inKernel ? "EROFS" : "ENOTSUP");
    assert.equal(await calls.errno("os.write(os.open(p('file'), os.O_RDWR), b'x')"), "EROFS");
    assert.equal(await calls.errno("check(libc.fallocate(os.open(p('file'), os.O_RDWR), 0, 0, 10))"), "EROFS");
    const into = "os.copy_file_range(os.open(p('big'), 0), os.open(p('file'), os.O_RDWR), 6)";
    assert.equal(await calls.errno(into), "EROFS");
    assert.deepEqual(await calls.run("open(p('file'), 'rb').read()"), { bytes: "hello\n" });
  });
});
