import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { FdClient } from "../../src/serve/fd-client.js";
import { cannotMountErofs, mountErofs } from "../support/kernel-erofs.js";
import { MountSandbox, processEnd, programLine } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, sampleBig } from "../support/sample-layer.js";

/** `ocifs serve` over the sandbox's cache: its process and its socket. */
async function startServe(t: TestContext, sandbox: MountSandbox, name: string): Promise<[ChildProcess, string]> {
  const path = join(sandbox.directory, name);
  const [program, script] = programLine("ocifs");
  const child = spawn(program, [script, "serve", "--socket", path, "--cachedir", sandbox.cache], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...sandbox.env },
    cwd: "/",
  });
  t.after(() => child.kill("SIGKILL"));
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  assert.equal(line, `listening at ${path}`);
  return [child, path];
}

test("a mount asked for through the socket outlives the server, and another one ends it", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const image = `file:${layer.blobPath}`;
  const [server, path] = await startServe(t, sandbox, "first");
  {
    using client = FdClient.connect(path);
    const options = [...layer.words, "driver=fuse", "noexec"].join(",");
    const { result } = await client.call("mount", { image, mountpoint, options });
    assert.deepEqual([result.mountpoint, result.driver, result.warnings], [mountpoint, "fuse, asked for", []]);
    const ended = once(server, "exit");
    server.kill("SIGKILL");
    await ended;
  }
  assert.ok((await readFile(join(mountpoint, "big"))).equals(sampleBig));
  const { keeperPid, pid } = await sandbox.status(mountpoint);
  assert.ok(keeperPid !== null, "it has a keeper, as every mount in the background");
  assert.match(await runProgram("findmnt", ["-no", "OPTIONS", mountpoint]), /\bro\b.*\bnoexec\b/);

  const [, again] = await startServe(t, sandbox, "second");
  using client = FdClient.connect(again);
  const file = await open(join(mountpoint, "hello"));
  try {
    await assert.rejects(client.call("umount", { mountpoint }), /busy/);
  } finally {
    await file.close();
  }
  await client.call("umount", { mountpoint });
  assert.deepEqual(await sandbox.mounts(), []);
  await processEnd(pid);
  await processEnd(keeperPid);
  await assert.rejects(client.call("umount", { mountpoint }), /no mount of ocifs is there/);
});

test("mounting through the socket fails as mount.ocifs does, and takes no path that is relative", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const image = `file:${layer.blobPath}`;
  const [, path] = await startServe(t, sandbox, "s");
  using client = FdClient.connect(path);
  for (const [source, where, options] of [
    [image, mountpoint, "oci.nonsense=1"],
    [image, mountpoint, "rw"],
    [image, mountpoint, "oci.username=me"],
    [image, join(mountpoint, "none"), ""],
    [`${image}.none`, mountpoint, ""],
    [image, mountpoint, "remount"],
  ] as const) {
    const { stderr } = await sandbox.mount([source, where, ...(options === "" ? [] : ["-o", options])]);
    const said = stderr.replace(/^mount\.ocifs: /, "").trim();
    assert.notEqual(said, "");
    await assert.rejects(client.call("mount", { image: source, mountpoint: where, options }), (error: Error) => {
      assert.equal(error.message, `mount: ${said}`);
      return true;
    });
  }
  for (const [source, where, options] of [
    ["file:layer.tar.gz", mountpoint, ""],
    [image, "mnt", ""],
    [image, mountpoint, "oci.tarindex=a,oci.zinfo=/b"],
    [image, mountpoint, "log=info:here"],
    [image, mountpoint, "cachedir=here"],
  ] as const) {
    await assert.rejects(client.call("mount", { image: source, mountpoint: where, options }), /want an absolute path/);
  }
  await assert.rejects(client.call("mount", { image, mountpoint, options: "foreground" }), /foreground/);
  await assert.rejects(client.call("mount", { image, mountpoint, options: 1 }), /want options/);
  await assert.rejects(client.call("mount", { image }), /want mountpoint/);
  assert.deepEqual(await sandbox.mounts(), []);
});

test("only mounts of ocifs are ended, an EROFS of somebody else's not", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const [, path] = await startServe(t, sandbox, "s");
  using client = FdClient.connect(path);
  const other = join(sandbox.directory, "tmpfs");
  await mkdir(other);
  await runProgram("mount", ["-t", "tmpfs", "ocifs-test", other]);
  await assert.rejects(client.call("umount", { mountpoint: other }), /no mount of ocifs is there/);
  await assert.rejects(client.call("umount", { mountpoint }), /no mount of ocifs is there/);

  if (cannotMountErofs) return t.diagnostic(cannotMountErofs);
  const tar = join(sandbox.directory, "tar");
  await writeFile(tar, gunzipSync(await readFile(layer.blobPath)));
  {
    await using foreign = await mountErofs(layer.tarindex, [tar]);
    await assert.rejects(client.call("umount", { mountpoint: foreign.directory }), /no mount of ocifs is there/);
    assert.ok((await readFile(join(foreign.directory, "big"))).equals(sampleBig));
  }
  const options = [...layer.words, "driver=erofs"].join(",");
  await client.call("mount", { image: `file:${layer.blobPath}`, mountpoint, options });
  assert.match(await runProgram("findmnt", ["-no", "FSTYPE", mountpoint]), /^erofs$/m);
  const { pid, keeperPid } = await sandbox.status(mountpoint);
  await client.call("umount", { mountpoint, lazy: true });
  assert.deepEqual(await sandbox.mounts(), [other]);
  await processEnd(pid);
  if (keeperPid !== null) await processEnd(keeperPid);
});
