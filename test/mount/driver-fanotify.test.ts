import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { callDaemon } from "../../src/daemon/control.js";
import { daemonProgram } from "../../src/daemon/keeper.js";
import { replaceDaemon } from "../../src/daemon/replace.js";
import type { DaemonStatus, MountStatus } from "../../src/daemon/status.js";
import { fanotifyDriver } from "../../src/drivers/fanotify.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { MountSandbox, processEnd } from "../support/mounted-image.js";
import { MountedTree } from "../support/mounted-tree.js";
import { runProgram } from "../support/process.js";
import { requireRootAndFuse, skipOrFail } from "../support/requires.js";
import { big, semanticsTar, spanBytes } from "../support/semantics-tree.js";
import { Syscalls } from "../support/syscalls.js";
import { listDirectory } from "../support/tree-listing.js";

/** Pages that are in no cache, so that the kernel has to ask for them. */
const PAGE = 4096;

async function requireFanotify(t: TestContext): Promise<boolean> {
  if (!requireRootAndFuse(t)) return false;
  const keeper = { pid: process.pid, keep: async () => undefined };
  const why = await fanotifyDriver.unavailable({ keeper, tree: { directory: "/" } } as never);
  if (why === undefined) return true;
  skipOrFail(t, `driver fanotify: ${why}`);
  return false;
}

const mountTree = () => MountedTree.mount(semanticsTar(), { spanBytes, driver: fanotifyDriver, onDisk: true });

/** Files of which the kernel asks this process before it reads them. */
function watchedFiles(tree: MountedTree): number {
  const info = readFileSync(`/proc/self/fdinfo/${tree.mounted.keep().fds.events}`, "utf8");
  // FAN_PRE_ACCESS.
  return info.split("\n").filter((line) => /^fanotify ino:.* mask:100000 /.test(line)).length;
}

/** A layer in a registry that may be told to hold its bytes back, mounted by the real programs. */
class Registered {
  private constructor(
    readonly sandbox: MountSandbox,
    readonly server: ImageServer,
    readonly fixture: LayerFixture,
    readonly mountpoint: string,
  ) {}

  static async open(t: TestContext): Promise<Registered> {
    const sandbox = await MountSandbox.open(t);
    const fixture = await makeLayerFixture(t, { files: { big: 3_000_000, last: 70_000 }, spanSizeBytes: 64 << 10 });
    const server = await ImageServer.start(fixture);
    t.after(() => server[Symbol.asyncDispose]());
    return new Registered(sandbox, server, fixture, await sandbox.mountpoint());
  }

  get args(): string[] {
    const { tarindexPath, zinfoPath } = this.fixture.index;
    const words = ["driver=fanotify", "oci.insecure", "oci.layer=0", "profile=off"];
    const index = [`oci.tarindex=${tarindexPath}`, `oci.zinfo=${zinfoPath}`];
    return [this.server.reference, this.mountpoint, "-o", [...words, ...index].join(",")];
  }

  get big(): Buffer {
    return this.fixture.files.get("big") ?? assert.fail();
  }

  async mount(...words: readonly string[]): Promise<MountStatus> {
    await this.sandbox.mounted([...this.args, ...words.flatMap((word) => ["-o", word])]);
    return await this.sandbox.status(this.mountpoint);
  }

  /** Requests for the layer get no answer until `release`. */
  hold(): { readonly release: () => void } {
    const held: (() => void)[] = [];
    this.server.fault = (request, response) => void held.push(() => this.server.serveLayer(request, response));
    return {
      release: () => {
        this.server.fault = undefined;
        for (const answer of held) answer();
      },
    };
  }
}

const read = (name: string, at: number, size: number) => `os.pread(os.open(p('${name}'), 0), ${size}, ${at})`;
const latin1 = (bytes: Uint8Array) => ({ bytes: Buffer.from(bytes).toString("latin1") });

test("the kernel's EROFS on files with holes shows what FUSE shows", async (t) => {
  if (!(await requireFanotify(t))) return;
  await using mounted = await mountTree();
  await using fuse = await MountedTree.mount(semanticsTar(), { spanBytes });
  assert.deepEqual(await listDirectory(mounted.mountpoint), await listDirectory(fuse.mountpoint));
});

test("random reads of a cold tree are right, and what is there to its last byte is watched no more", async (t) => {
  if (!(await requireFanotify(t))) return;
  await using tree = await mountTree();
  await using sys = await Syscalls.start(tree.mountpoint);
  assert.equal(watchedFiles(tree), 1);
  const sums = await sys.run<string[]>(`
import hashlib, random
order = list(range(0, ${big.length}, 65521))
random.Random(7).shuffle(order)
fd = os.open(p('big'), 0)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
parts = {at: os.pread(fd, 65521, at) for at in order}
result = [hashlib.sha256(b''.join(parts[at] for at in sorted(parts))).hexdigest()]
`);
  assert.deepEqual(sums, [createHash("sha256").update(big).digest("hex")]);
  await tree.fill(0, tree.table.spanCount - 1);
  // The event that finds it complete takes the mark away. No byte of the file is in the kernel's cache after that.
  await sys.run("fd = os.open(p('big'), 0)\nos.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)");
  assert.deepEqual(await sys.run(read("big", 5_000_000, 100)), latin1(big.subarray(5_000_000, 5_000_100)));
  assert.equal(watchedFiles(tree), 0);
  const { reads } = tree.mounted.stats();
  await sys.run("fd = os.open(p('big'), 0)\nos.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)");
  assert.deepEqual(await sys.run(read("big", 9_000_000, 100)), latin1(big.subarray(9_000_000, 9_000_100)));
  assert.equal(tree.mounted.stats().reads, reads, "no event, no daemon");
});

test("a read waits for its bytes, and one whose bytes do not come is EIO, never zeros", async (t) => {
  if (!(await requireFanotify(t))) return;
  await using tree = await mountTree();
  await using sys = await Syscalls.start(tree.mountpoint);
  tree.policy = "hold";
  const waiting = sys.run(read("big", 5_000_000, 100));
  await tree.missed(1);
  await tree.release();
  assert.deepEqual(await waiting, latin1(big.subarray(5_000_000, 5_000_100)));
  tree.policy = "EIO";
  // From one end to the other in pieces that lie across pages: each is right or EIO.
  const outcome = await sys.run<{ good: [number, string][]; bad: number }>(`
import hashlib
fd = os.open(p('big'), 0)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
good, bad = [], 0
for at in range(0, ${big.length} - ${PAGE}, 3 * ${PAGE} + 512):
    try:
        good.append([at, hashlib.sha256(os.pread(fd, ${PAGE}, at)).hexdigest()])
    except OSError as e:
        assert e.errno == errno.EIO, e
        bad += 1
result = dict(good=good, bad=bad)
`);
  assert.ok(outcome.bad > 0);
  for (const [at, sum] of outcome.good) {
    assert.equal(
      sum,
      createHash("sha256")
        .update(big.subarray(at, at + PAGE))
        .digest("hex"),
      `at ${at}`,
    );
  }
  // The failure was of the moment.
  tree.policy = "fill";
  assert.deepEqual(await sys.run(read("big", 0, 100)), latin1(big.subarray(0, 100)));
  assert.ok(tree.mounted.stats().errors > 0);
});

test("spans that a full disk left in memory come to the file before the kernel reads it", async (t) => {
  if (!(await requireFanotify(t))) return;
  await using tree = await mountTree();
  await using sys = await Syscalls.start(tree.mountpoint);
  tree.onlyMemory = true;
  assert.deepEqual(await sys.run(read("big", 0, 300_000)), latin1(big.subarray(0, 300_000)));
  assert.ok(tree.store.stats().dataSpans > 0);
});

test("what the kernel may read is not given up", async (t) => {
  if (!(await requireFanotify(t))) return;
  await using tree = await mountTree();
  await using sys = await Syscalls.start(tree.mountpoint);
  await tree.fill(0, 5);
  assert.deepEqual(tree.store.leastRecent(100), []);
  assert.equal(await tree.store.tryEvict([0, 1, 2, 3]), 0);
  assert.equal(tree.store.stats().dataSpans, 6);
  await sys.run("os.listdir(p(''))");
});

test("umount ends it, and a lazy one when the last file is closed, which is served until then", async (t) => {
  if (!(await requireFanotify(t))) return;
  await using tree = await mountTree();
  await using sys = await Syscalls.start(tree.mountpoint);
  const held = await sys.run("os.open(p('big'), 0)");
  await assert.rejects(runProgram("umount", [tree.mountpoint]), /busy/);
  await runProgram("umount", ["-l", tree.mountpoint]);
  assert.deepEqual(await sys.run(`os.pread(${held}, 100, 7000000)`), latin1(big.subarray(7_000_000, 7_000_100)));
  await sys.run(`os.close(${held})`);
  await tree.mounted.ended;
});

test("S78: the end of a busy mount waits for its files, which miss nothing silently", async (t) => {
  if (!(await requireFanotify(t))) return;
  await using tree = await mountTree();
  await using sys = await Syscalls.start(tree.mountpoint);
  const held = await sys.run("os.open(p('big'), 0)");
  await sys.run(`os.pread(${held}, 100, 0)`);
  const ended = tree.mounted.unmount();
  // Until the path is free.
  while ((await readFile("/proc/self/mounts", "utf8")).includes(tree.mountpoint));
  assert.equal(await sys.errno(`os.pread(${held}, 100, 9000000)`), "EIO");
  await sys.run(`os.close(${held})`);
  await ended;
});

test("reads that wait, and those that come while nobody is there, end right with the next daemon", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  const { pid, driver, driverReason } = await image.mount();
  assert.deepEqual([driver, driverReason], ["fanotify", "asked for"]);
  await using sys = await Syscalls.start(image.mountpoint);
  const held = image.hold();
  const asked = image.server.moreBlobRequests(1);
  const waiting = [100_000, 1_500_000].map((at) => sys.run(read("big", at, 200_000)));
  await asked;
  // A daemon that does not run reads no events.
  process.kill(pid, "SIGSTOP");
  const later = sys.run(read("last", 1000, 60_000));
  process.kill(pid, "SIGKILL");
  await processEnd(pid);
  held.release();
  assert.deepEqual(await Promise.all(waiting), [
    latin1(image.big.subarray(100_000, 300_000)),
    latin1(image.big.subarray(1_500_000, 1_700_000)),
  ]);
  assert.deepEqual(await later, latin1(image.fixture.files.get("last")?.subarray(1000, 61_000) ?? assert.fail()));
  assert.deepEqual(await readFile(join(image.mountpoint, "big")), image.big);
  await sys.kill();
  await image.sandbox.unmount(image.mountpoint);
  assert.deepEqual(await readdir(image.sandbox.runtime), []);
});

test("an upgrade leaves what waits to the next version", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  const { keeperPid } = await image.mount();
  await using sys = await Syscalls.start(image.mountpoint);
  const held = image.hold();
  const asked = image.server.moreBlobRequests(1);
  const waiting = sys.run(read("big", 100_000, 200_000));
  await asked;
  const socket = join(image.sandbox.runtime, `${keeperPid}.sock`);
  const before = (await callDaemon(socket, "status")) as DaemonStatus;
  const after = await replaceDaemon(socket, before, daemonProgram(), new AbortController().signal);
  assert.notEqual(after.pid, before.pid);
  held.release();
  assert.deepEqual(await waiting, latin1(image.big.subarray(100_000, 300_000)));
  await sys.kill();
  await image.sandbox.unmount(image.mountpoint);
});

test("a registry that fails is EIO, and its bytes are read once it is back", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  await image.mount("timeout=1s");
  await using sys = await Syscalls.start(image.mountpoint);
  image.server.fault = (_, response) => void response.writeHead(403).end();
  assert.equal(await sys.errno(read("big", 1_000_000, 5000)), "EIO");
  image.server.fault = undefined;
  assert.deepEqual(await sys.run(read("big", 1_000_000, 5000)), latin1(image.big.subarray(1_000_000, 1_005_000)));
  await sys.kill();
  await image.sandbox.unmount(image.mountpoint);
});

test("a second mount of the layer fills the same file beside the first", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  await image.mount();
  const other = await image.sandbox.mountpoint("other");
  const [source = "", , ...options] = image.args;
  await image.sandbox.mounted([source, other, ...options]);
  const [one, two] = await Promise.all([
    readFile(join(image.mountpoint, "big")),
    runProgram("sha256sum", [join(other, "big")]),
  ]);
  assert.deepEqual(one, image.big);
  assert.match(String(two), new RegExp(createHash("sha256").update(image.big).digest("hex")));
  // And a driver that reads the file itself.
  const third = await image.sandbox.mountpoint("third");
  const fuse = options.map((word) => word.replace("driver=fanotify", "driver=fuse"));
  await image.sandbox.mounted([source, third, ...fuse]);
  assert.deepEqual(await readFile(join(third, "last")), image.fixture.files.get("last"));
  for (const mountpoint of [image.mountpoint, other, third]) await image.sandbox.unmount(mountpoint);
});

test("SIGTERM takes the mount away, and leaves nothing", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  const { pid, keeperPid } = await image.mount();
  process.kill(keeperPid ?? assert.fail(), "SIGTERM");
  await processEnd(pid);
  await processEnd(keeperPid ?? assert.fail());
  assert.deepEqual(await image.sandbox.mounts(), []);
  assert.deepEqual(await readdir(image.sandbox.runtime), []);
});

test("S79: without its keeper a mount goes away before its daemon can", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  const { pid, keeperPid } = await image.mount();
  await using sys = await Syscalls.start(image.mountpoint);
  const held = await sys.run("os.open(p('big'), 0)");
  // CAP_SYS_RESOURCE, without which nobody can be spared.
  const capabilities = BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1]}`);
  const mine = readFileSync("/proc/self/oom_score_adj", "latin1");
  assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, "latin1"), mine);
  assert.equal(
    readFileSync(`/proc/${keeperPid}/oom_score_adj`, "latin1"),
    (capabilities >> 24n) & 1n ? "-1000\n" : mine,
  );
  process.kill(keeperPid ?? assert.fail(), "SIGKILL");
  while ((await image.sandbox.mounts()).length > 0);
  assert.equal(await sys.errno(`os.pread(${held}, 100, 2000000)`), "EIO");
  await sys.run(`os.close(${held})`);
  await processEnd(pid);
});

test("a mount that no daemon can go on with fails, and is not read as zeros", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  const { pid, keeperPid } = await image.mount();
  await using sys = await Syscalls.start(image.mountpoint);
  const held = await sys.run("os.open(p('big'), 0)");
  await rm(image.fixture.index.tarindexPath);
  process.kill(pid, "SIGKILL");
  assert.equal(await sys.errno(`os.pread(${held}, 100, 2000000)`), "EIO");
  while ((await image.sandbox.mounts()).length > 0);
  assert.equal(await sys.errno(`os.pread(${held}, 100, 1000000)`), "EIO");
  await sys.run(`os.close(${held})`);
  await processEnd(keeperPid ?? assert.fail());
});

test("it is refused, with what to do, where nothing would keep its descriptors or keep what it reads", async (t) => {
  if (!(await requireFanotify(t))) return;
  const image = await Registered.open(t);
  const refused = async (words: readonly string[], why: RegExp) => {
    const { status, stderr } = await image.sandbox.mount([...image.args, "-o", words.join(",")]);
    assert.equal(status, 32, stderr);
    assert.match(stderr, why);
    assert.deepEqual(await image.sandbox.mounts(), []);
  };
  await refused(["foreground"], /driver=fanotify .*mount without foreground, so that the keeper runs/);
  await refused(["cachesize=1G"], /with cachesize= a part of a layer may be given up/);
  await refused(
    ["cachedir=/dev/shm/ocifs-no-events"],
    /the file system of the cache raises no events|attribute|watched/,
  );
  await rm("/dev/shm/ocifs-no-events", { recursive: true, force: true });
});
