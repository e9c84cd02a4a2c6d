import assert from "node:assert/strict";
import { readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
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

test("with some bytes here and others not to be had, whatever is read is right, however it is read", async (t) => {
  if (!(await requireErofs(t))) return;
  // Half a page more or less than the kernel's units, so that edges lie within pages, requests and readahead.
  for (const [every, sizes] of [
    [2, [512, 4096, 5000, 100_000]],
    [5, [4096, 300_000, 4 << 20]],
    [17, [65_536, 1_500_000, 12 << 20]],
  ] as const) {
    await using tree = await MountedTree.mount(semanticsTar(), { spanBytes: 3 * 4096 + 512, driver: erofsDriver });
    await using sys = await Syscalls.start(tree.mountpoint);
    const bad = (span: number) => span % every === every - 1;
    for (let span = 0; span < tree.table.spanCount; span++) if (!bad(span)) await tree.fill(span, span);
    tree.policy = "EIO";
    const want = join(tmpdir(), `ocifs-want-${process.pid}`);
    await writeFile(want, big);
    try {
      const code = `
good = bad = 0
want = open(${JSON.stringify(want)}, 'rb').read()
for size in ${JSON.stringify(sizes)}:
    for advice in (os.POSIX_FADV_NORMAL, os.POSIX_FADV_RANDOM, os.POSIX_FADV_SEQUENTIAL):
        fd = os.open(p('big'), 0)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, advice)
        step = max(size, len(want) // 400)
        for at in range(0, len(want), step):
            try:
                got = os.pread(fd, size, at)
            except OSError as e:
                assert e.errno == errno.EIO, e
                bad += 1
                continue
            assert got and got == want[at:at + len(got)], (size, advice, at, len(got))
            good += len(got)
        os.close(fd)
result = [good, bad]
`;
      const [good = 0, failed = 0] = await sys.run<number[]>(code);
      assert.ok(good > 0 && failed > 0, `${good} bytes right, ${failed} reads failed`);
    } finally {
      await rm(want);
    }
  }
});

test("umount ends the session below, and a lazy one when the last file is closed, whose waiting reads are answered", async (t) => {
  if (!(await requireErofs(t))) return;
  await using tree = await mountErofs();
  await using sys = await Syscalls.start(tree.mountpoint);
  const held = await sys.run("os.open(p('big'), 0)");
  await assert.rejects(runProgram("umount", [tree.mountpoint]), /busy/);
  tree.policy = "hold";
  const waiting = sys.run(`os.pread(${held}, 100, 5_000_000)`);
  await tree.missed(1);
  await runProgram("umount", ["-l", tree.mountpoint]);
  await tree.release();
  assert.deepEqual(await waiting, { bytes: Buffer.from(big.subarray(5_000_000, 5_000_100)).toString("latin1") });
  await sys.run(`os.close(${held})`);
  await tree.mounted.ended;
});

test("a mount that cannot be attached leaves nothing behind", async (t) => {
  if (!(await requireErofs(t))) return;
  const openDevices = async () => {
    const names = await readdir("/proc/self/fd");
    const targets = await Promise.all(names.map((name) => readlink(`/proc/self/fd/${name}`).catch(() => "")));
    return targets.filter((target) => target === "/dev/fuse").length;
  };
  const before = await openDevices();
  const at = join(tmpdir(), "ocifs-no-such-mountpoint");
  await rejectsWith(MountedTree.mount(semanticsTar(), { spanBytes, driver: erofsDriver, at }), "io");
  assert.equal(await openDevices(), before, "the session of the device files has ended");
});

/** Source, type and path of everything that findmnt shows, started by `prefix`. */
async function findMounts(...prefix: readonly string[]): Promise<string[]> {
  const [program = "", ...args] = [...prefix, "findmnt", "-r", "-n", "-A", "-o", "SOURCE,FSTYPE,TARGET"];
  return (await runProgram(program, args)).trim().split("\n");
}

test("the mount of the device files is in no namespace: neither the user's, the daemon's, nor a new one", async (t) => {
  if (!(await requireErofs(t))) return;
  const sandbox = await MountSandbox.open(t);
  const { mountpoint, pid } = await mountSample(sandbox);
  const ofDaemon = ["nsenter", "--mount", "--target", String(pid)];
  for (const prefix of [[], ofDaemon, ["unshare", "--mount"]]) {
    const mounts = await findMounts(...prefix);
    const ours = mounts.filter((line) => line.includes(sandbox.directory));
    assert.equal(ours.length, 1, ours.join("; "));
    assert.match(ours[0] ?? "", / erofs /);
    assert.ok(ours[0]?.endsWith(` ${mountpoint}`), ours[0]);
    assert.deepEqual(
      mounts.filter((line) => line.startsWith("ocifs-devices ")),
      [],
    );
  }
  await sandbox.unmount(mountpoint);
});

/** The sample layer mounted by a daemon with a keeper. */
async function mountSample(sandbox: MountSandbox, options = "") {
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const words = [`file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", `driver=erofs${options}`];
  await sandbox.mounted(words);
  const { pid, keeperPid, driver } = await sandbox.status(mountpoint);
  assert.equal(driver, "erofs");
  return { mountpoint, pid, keeper: keeperPid ?? assert.fail("the daemon has no keeper"), words };
}

test("a mount of EROFS outlives its daemon, also one that was lent the cache's own file, and goes to another by upgrade", async (t) => {
  if (!(await requireErofs(t))) return;
  const sandbox = await MountSandbox.open(t);
  for (const prefetch of ["none", "all"]) {
    const { mountpoint, pid } = await mountSample(sandbox, `,prefetch=${prefetch}`);
    process.kill(pid, "SIGKILL");
    await processEnd(pid);
    // Until another one answers.
    assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
    // Everything was read, so the next mount finds the layer complete if its fill was done.
    const { status, stderr } = await sandbox.ocifs(["upgrade"]);
    assert.deepEqual([status, stderr], [0, ""]);
    await runProgram("python3", ["-c", DROP_PAGES, join(mountpoint, "big")]);
    assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
    await sandbox.unmount(mountpoint);
  }
});

/** EIO, or what the session below was told when a block of the index was asked for. */
const failure = /^(EIO|ENOTCONN|ECONNABORTED)$/;

const DROP_PAGES = "import os, sys; os.posix_fadvise(os.open(sys.argv[1], 0), 0, 0, os.POSIX_FADV_DONTNEED)";

test("a daemon that dies with its keeper: reads fail and do not hang, umount works, and so does a mount after it", async (t) => {
  if (!(await requireErofs(t))) return;
  const sandbox = await MountSandbox.open(t);
  const { mountpoint, pid, keeper, words } = await mountSample(sandbox);
  assert.equal(await readFile(join(mountpoint, "hello"), "latin1"), "hello \n");
  await using sys = await Syscalls.start(mountpoint);
  // Stopped, so that the read finds nobody who answers.
  for (const each of [keeper, pid]) process.kill(each, "SIGSTOP");
  const asked = sys.run<string>("result = 'asked'");
  const waiting = sys.errno("open(p('big'), 'rb').read()");
  await asked;
  for (const each of [keeper, pid]) process.kill(each, "SIGKILL");
  for (const each of [keeper, pid]) await processEnd(each);
  assert.match(await waiting, failure);
  assert.match(await sys.errno("os.pread(os.open(p('big'), 0), 10, 2_000_000)"), failure);
  assert.deepEqual(await sys.run("open(p('hello'), 'rb').read()"), { bytes: "hello \n" }, "the kernel has its page");
  await sys[Symbol.asyncDispose]();
  await runProgram("umount", [mountpoint]);
  assert.deepEqual(await sandbox.mounts(), []);
  await sandbox.mounted(words);
  assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
  await sandbox.unmount(mountpoint);
});

test("a keeper whose EROFS mount goes while its daemon is dead ends", async (t) => {
  if (!(await requireErofs(t))) return;
  const sandbox = await MountSandbox.open(t);
  const { mountpoint, pid, keeper } = await mountSample(sandbox);
  process.kill(keeper, "SIGSTOP");
  process.kill(pid, "SIGKILL");
  await runProgram("umount", [mountpoint]);
  process.kill(keeper, "SIGCONT");
  await processEnd(keeper);
  assert.deepEqual(await sandbox.mounts(), []);
});

test("SIGTERM for a daemon whose mount is busy frees the path and ends it; what is open fails and does not hang", async (t) => {
  if (!(await requireErofs(t))) return;
  const sandbox = await MountSandbox.open(t);
  const { mountpoint, pid, keeper, words } = await mountSample(sandbox);
  await using sys = await Syscalls.start(mountpoint);
  const held = await sys.run("os.chdir(mnt) or os.open(p('big'), 0)");
  // The busy mountpoint takes another mount above it, which goes by itself and first.
  await sandbox.mounted(words);
  await runProgram("umount", [mountpoint]);
  process.kill(keeper, "SIGTERM");
  for (const each of [pid, keeper]) await processEnd(each);
  assert.deepEqual(await sandbox.mounts(), []);
  assert.match(await sys.errno(`os.pread(${held}, 10, 2_000_000)`), failure);
  await sandbox.mounted(words);
  assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
  await sandbox.unmount(mountpoint);
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
