import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { open, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { callDaemon } from "../../src/daemon/control.js";
import { replaceDaemon } from "../../src/daemon/replace.js";
import type { DaemonStatus, MountStatus } from "../../src/daemon/status.js";
import { rejectsWith } from "../support/errors.js";
import { MountSandbox, processEnd } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, pushSampleLayer, sampleBig } from "../support/sample-layer.js";

interface Kept {
  readonly sandbox: MountSandbox;
  readonly mountpoint: string;
  readonly status: MountStatus;
  readonly keeper: number;
  readonly socket: string;
}

async function mountKept(t: TestContext, driver = "fuse"): Promise<Kept> {
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", `driver=${driver}`]);
  const status = await sandbox.status(mountpoint);
  const keeper = status.keeperPid ?? assert.fail("the daemon has no keeper");
  return { sandbox, mountpoint, status, keeper, socket: join(sandbox.runtime, `${keeper}.sock`) };
}

/** Reads bytes that no cache of the kernel holds, so that a daemon has to answer. */
async function readThroughDaemon(mountpoint: string): Promise<Buffer> {
  const file = await open(join(mountpoint, "big"));
  try {
    await runProgram("python3", [
      "-c",
      "import os,sys; os.posix_fadvise(int(os.open(sys.argv[1], os.O_RDONLY)), 0, 0, os.POSIX_FADV_DONTNEED)",
      join(mountpoint, "big"),
    ]);
    return await file.readFile();
  } finally {
    await file.close();
  }
}

test("a mount outlives its daemon, with its registry down", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const registry = await startRegistry();
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image");
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mountedFirst([`${registry.host}/some/image:1`, mountpoint, "-o", "oci.insecure"]);
  await registry.stop();
  const { pid, mountedAt } = await sandbox.status(mountpoint);
  process.kill(pid, "SIGKILL");
  // Asked while nobody is there to answer.
  assert.deepEqual(await readThroughDaemon(mountpoint), sampleBig);
  const after = await sandbox.status(mountpoint);
  assert.notEqual(after.pid, pid);
  assert.equal(after.restarts, 1);
  assert.equal(after.mountedAt, mountedAt);
  assert.equal(after.bytesFetched, 0);
  await sandbox.unmount(mountpoint);
  assert.deepEqual(await readdir(sandbox.runtime), []);
});

test("readers do not notice that the daemon dies again and again", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, mountpoint, keeper } = await mountKept(t);
  let done = false;
  const readers = [1, 2, 3].map(async () => {
    let rounds = 0;
    for (; !done || rounds === 0; rounds++) assert.deepEqual(await readThroughDaemon(mountpoint), sampleBig);
    return rounds;
  });
  for (let kills = 0; kills < 3; kills++) {
    const { pid } = await sandbox.status(mountpoint);
    process.kill(pid, "SIGKILL");
    await processEnd(pid);
    // Until another one answers.
    assert.deepEqual(await readThroughDaemon(mountpoint), sampleBig);
    while ((await sandbox.ocifs(["status", "--json"])).stdout.includes('"mounts": []'));
  }
  done = true;
  await Promise.all(readers);
  const { restarts, keeperPid } = await sandbox.status(mountpoint);
  assert.deepEqual([restarts, keeperPid], [3, keeper]);
  await sandbox.unmount(mountpoint);
});

test("ocifs upgrade puts another daemon in place while readers read", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, mountpoint, status } = await mountKept(t);
  const reader = spawn("python3", ["-c", READ_UNTIL_TOLD, join(mountpoint, "big")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(() => reader.kill("SIGKILL"));
  await once(reader.stdout, "data");
  const { status: exit, stdout, stderr } = await sandbox.ocifs(["upgrade"]);
  assert.deepEqual([exit, stderr], [0, ""]);
  assert.match(stdout, new RegExp(`^daemon ${status.pid} \\(.*\\) is now \\d+ \\(.*\\): ${mountpoint}\n$`));
  const closed = once(reader, "close");
  reader.stdin.end();
  assert.deepEqual(await closed, [0, null]);
  const after = await sandbox.status(mountpoint);
  assert.equal(after.keeperPid, status.keeperPid);
  assert.notEqual(after.pid, status.pid);
  await sandbox.unmount(mountpoint);
});

/** Reads a file again and again, past the page cache, until its standard input ends; fails at the first error. */
const READ_UNTIL_TOLD = `
import os, select, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
first = os.pread(fd, 1 << 26, 0)
print(len(first), flush=True)
while not select.select([0], [], [], 0)[0]:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 1 << 26, 0) == first
`;

test("a version that does not get ready is given up for the one before", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, mountpoint, status, socket } = await mountKept(t);
  const before = (await callDaemon(socket, "status")) as DaemonStatus;
  const broken = join(sandbox.directory, "broken.mjs");
  await writeFile(broken, "process.exit(3);\n");
  const replaced = replaceDaemon(socket, before, [process.execPath, broken], new AbortController().signal);
  assert.match((await rejectsWith(replaced, "io")).message, /did not get ready/);
  assert.deepEqual(await readThroughDaemon(mountpoint), sampleBig);
  assert.notEqual((await sandbox.status(mountpoint)).pid, status.pid);
  for (const program of [[], ["node"], ["/x", ""], "/x", ["/x\0y"]]) {
    assert.match((await rejectsWith(callDaemon(socket, "upgrade", { program }), "io")).message, /absolute path/);
  }
  const long = callDaemon(socket, "upgrade", { program: ["/x".repeat(3000)] });
  assert.match((await rejectsWith(long, "io")).message, /4096 bytes/);
  await sandbox.unmount(mountpoint);
});

test("a keeper whose mount goes while its daemon is dead ends", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { mountpoint, status, keeper } = await mountKept(t);
  process.kill(keeper, "SIGSTOP");
  process.kill(status.pid, "SIGKILL");
  await runProgram("umount", ["-l", mountpoint]);
  process.kill(keeper, "SIGCONT");
  await processEnd(keeper);
});

test("SIGTERM for the keeper ends the mount; a daemon whose keeper was killed goes on", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const first = await mountKept(t);
  process.kill(first.keeper, "SIGTERM");
  await processEnd(first.keeper);
  assert.deepEqual(await first.sandbox.mounts(), []);
  assert.deepEqual(await readdir(first.sandbox.runtime), []);

  const second = await mountKept(t);
  process.kill(second.keeper, "SIGKILL");
  await processEnd(second.keeper);
  assert.deepEqual(await readThroughDaemon(second.mountpoint), sampleBig);
  await runProgram("umount", [second.mountpoint]);
  await processEnd(second.status.pid);
});

test("a daemon that cannot go on says why, and the mount fails instead of hanging", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const log = join(sandbox.directory, "daemon.log");
  await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", `log=info:${log}`]);
  const { pid, keeperPid } = await sandbox.status(mountpoint);
  await writeFile(layer.tarindex, (await readFile(layer.tarindex)).subarray(0, 1024));
  process.kill(pid, "SIGKILL");
  await processEnd(Number(keeperPid));
  await assert.rejects(readFile(join(mountpoint, "big")), { code: "ENOTCONN" });
  assert.match(await readFile(log, "utf8"), /a mount cannot be gone on with/);
  await runProgram("umount", [mountpoint]);
});
