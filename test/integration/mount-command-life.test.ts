import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { MountSandbox, processEnd, programLine, runCommand } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, pushSampleLayer, sampleBig } from "../support/sample-layer.js";

test("umount ends the daemon, and with it its socket and log", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words]);
  assert.equal(await readFile(join(mountpoint, "dir/link"), "utf8"), "hello \n");
  assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
  const { keeperPid, driver, state, source } = await sandbox.status(mountpoint);
  assert.deepEqual([driver, state, source], ["fuse", "ready", `file:${layer.blobPath}`]);
  assert.deepEqual((await readdir(sandbox.runtime)).sort(), [`${keeperPid}.log`, `${keeperPid}.sock`]);
  await sandbox.unmount(mountpoint);
  assert.deepEqual(await readdir(sandbox.runtime), []);
  assert.deepEqual(await readdir(mountpoint), []);
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`${signal} ends the daemon and the mount, also a busy one`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const sandbox = await MountSandbox.open(t);
    const layer = await makeSampleLayer(sandbox.directory);
    const mountpoint = await sandbox.mountpoint();
    await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words]);
    const { pid } = await sandbox.status(mountpoint);
    const busy = spawn("tail", ["-f", join(mountpoint, "hello")], { stdio: ["ignore", "pipe", "ignore"] });
    t.after(() => busy.kill("SIGKILL"));
    await once(busy.stdout, "data");
    process.kill(pid, signal);
    await processEnd(pid);
    assert.deepEqual(await sandbox.mounts(), []);
    assert.deepEqual(await readdir(sandbox.runtime), []);
  });
}

test("S76: after daemon and keeper are killed the mount is ENOTCONN, and can be unmounted and mounted again", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const args = [`file:${layer.blobPath}`, mountpoint, ...layer.words];
  await sandbox.mounted(args);
  const { pid, keeperPid } = await sandbox.status(mountpoint);
  process.kill(Number(keeperPid), "SIGKILL");
  await processEnd(Number(keeperPid));
  process.kill(pid, "SIGKILL");
  await processEnd(pid);
  await assert.rejects(readdir(mountpoint), { code: "ENOTCONN" });
  const again = await sandbox.mount(args);
  assert.equal(again.status, 32);
  assert.match(
    again.stderr,
    /^mount\.ocifs: mountpoint .*: a mount is there whose daemon has died; unmount it first\n$/,
  );
  const { stdout } = await sandbox.ocifs(["status", "--json"]);
  assert.deepEqual(JSON.parse(stdout), { mounts: [] });
  await runProgram("umount", [mountpoint]);
  await sandbox.mounted(args);
  assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
  await sandbox.unmount(mountpoint);
});

test("the daemon holds nothing of its caller: $(...) and pipes end, Ctrl-C and a closed terminal pass it by", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const [node, program] = programLine("mount.ocifs");
  const line = [node, program, `file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", `cachedir=${sandbox.cache}`];
  // In a session of its own with a process group that is then sent what a terminal sends.
  const script =
    'said=$("$@" 2>&1 | cat); printf "%s|%s\\n" "$?" "$said"; trap "" HUP; kill -INT 0; kill -HUP 0; echo done';
  const shell = spawn("setsid", ["--wait", "sh", "-c", `trap "" INT; ${script}`, "sh", ...line], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...sandbox.env },
  });
  assert.equal(await text(shell.stdout), "0|\ndone\n");
  const { pid, keeperPid } = await sandbox.status(mountpoint);
  assert.equal(await readFile(join(mountpoint, "hello"), "utf8"), "hello \n");
  const [, session] = /\) \S \d+ \d+ (\d+)/.exec(await readFile(`/proc/${pid}/stat`, "utf8")) ?? [];
  assert.equal(Number(session), keeperPid);
  process.kill(Number(keeperPid), "SIGHUP");
  assert.equal((await sandbox.status(mountpoint)).pid, pid);
  await sandbox.unmount(mountpoint);
});

test("the password is in no command line, environment, log, mount table or status of the daemon", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const auth = { user: "somebody", password: "sesame-0pen-2718" };
  const registry = await startRegistry({ auth });
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "secret/image", auth);
  const mountpoint = await sandbox.mountpoint();
  const log = join(sandbox.directory, "daemon.log");
  const reference = `${registry.host}/secret/image:1`;
  const words = `oci.username=${auth.user},oci.password=${auth.password},oci.insecure,log=debug:${log}`;
  await sandbox.mounted([reference, mountpoint, ...layer.words, "-o", words]);
  assert.deepEqual(await readFile(join(mountpoint, "big")), sampleBig);
  const { pid } = await sandbox.status(mountpoint);
  const places = [`/proc/${pid}/cmdline`, `/proc/${pid}/environ`, "/proc/self/mountinfo", log];
  const basic = Buffer.from(`${auth.user}:${auth.password}`).toString("base64");
  for (const place of places) {
    const content = await readFile(place, "latin1");
    assert.ok(content.length > 0, place);
    assert.ok(!content.includes(auth.password) && !content.includes(basic), place);
  }
  assert.ok(!(await sandbox.ocifs(["status", "--json"])).stdout.includes(auth.password));
  await sandbox.unmount(mountpoint);

  const file = join(sandbox.directory, "password");
  await writeFile(file, `${auth.password}\nsecond line\n`);
  const fromFile = ["-o", `oci.username=${auth.user},oci.password_file=${file},oci.insecure`];
  await sandbox.mounted([reference, mountpoint, ...layer.words, ...fromFile]);
  await sandbox.unmount(mountpoint);
});

test("-o foreground stays, says when the mount is ready, and ends like a daemon", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const [node, program] = programLine("mount.ocifs");
  for (const end of ["umount", "SIGTERM"] as const) {
    const args = [
      program,
      `file:${layer.blobPath}`,
      mountpoint,
      ...layer.words,
      "-o",
      `foreground,cachedir=${sandbox.cache}`,
    ];
    const child = spawn(node, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...sandbox.env } });
    const ended = once(child, "exit");
    for await (const line of createInterface({ input: child.stderr })) if (line.includes("is ready")) break;
    assert.equal(await readFile(join(mountpoint, "hello"), "utf8"), "hello \n");
    if (end === "umount") await runProgram("umount", [mountpoint]);
    else child.kill(end);
    assert.deepEqual(await ended, [0, null]);
    assert.deepEqual(await sandbox.mounts(), []);
    assert.deepEqual(await readdir(sandbox.runtime), []);
  }
});

test("two mounts of one image share its cache", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const registry = await startRegistry();
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "shared/image");
  const [one, two] = [await sandbox.mountpoint("one"), await sandbox.mountpoint("two")];
  for (const mountpoint of [one, two]) {
    await sandbox.mounted([`${registry.host}/shared/image:1`, mountpoint, ...layer.words, "-o", "oci.insecure"]);
  }
  // Both at once: what one fetches the other waits for.
  const [first, second] = await Promise.all([readFile(join(one, "big")), readFile(join(two, "big"))]);
  assert.deepEqual([first, second], [sampleBig, sampleBig]);
  const statuses = [await sandbox.status(one), await sandbox.status(two)];
  const fetched = statuses.reduce((sum, { bytesFetched }) => sum + bytesFetched, 0);
  assert.ok(fetched <= (statuses[0]?.bytesTotal ?? 0), `${fetched} bytes were fetched`);
  await sandbox.unmount(one);
  assert.deepEqual(await readFile(join(two, "big")), sampleBig);
  await sandbox.unmount(two);
});

test("paths may be relative, and the mountpoint a link", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const relative = (path: string) => path.slice(sandbox.directory.length + 1);
  await symlink("mnt", join(sandbox.directory, "link"));
  for (const target of ["mnt", "./link", "link/../mnt/"]) {
    const args = [`file:${relative(layer.blobPath)}`, target, `oci.tarindex=${relative(layer.tarindex)}`];
    await sandbox.mounted([...args, `oci.zinfo=${relative(layer.zinfo)}`, "-o", "cachedir=here,log=info:daemon.log"], {
      cwd: sandbox.directory,
    });
    assert.equal(await readFile(join(mountpoint, "hello"), "utf8"), "hello \n");
    const { pid } = await sandbox.status(mountpoint);
    process.kill(pid, "SIGTERM");
    await processEnd(pid);
    assert.deepEqual(await sandbox.mounts(), []);
  }
  assert.ok((await readdir(sandbox.directory)).includes("here"));
  assert.match(await readFile(join(sandbox.directory, "daemon.log"), "utf8"), /"msg":"mounted"/);
});

test("a mount upon a mount covers it, and umount brings it back", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const [lower, upper] = [await makeSampleLayer(sandbox.directory, "1"), await makeSampleLayer(sandbox.directory, "2")];
  const mountpoint = await sandbox.mountpoint();
  for (const layer of [lower, upper]) await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words]);
  assert.equal((await sandbox.mounts()).length, 2);
  assert.equal(await readFile(join(mountpoint, "hello"), "utf8"), "hello 2\n");
  await runProgram("umount", [mountpoint]);
  assert.equal(await readFile(join(mountpoint, "hello"), "utf8"), "hello 1\n");
});

test("help and version go to standard output, and -v tells what happens", async (t) => {
  const [node, program] = programLine("mount.ocifs");
  const version = await runCommand([node, program, "-V"]);
  assert.match(version.stdout, /^mount\.ocifs \d+\.\d+\.\d+\n$/);
  assert.match((await runCommand([node, program, "--help"])).stdout, /^usage: mount\.ocifs SOURCE DIR/);
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const said = await sandbox.mount([`file:${layer.blobPath}`, mountpoint, ...layer.words, "-sv", "-o", "strange=1"]);
  const { pid } = await sandbox.status(mountpoint);
  assert.deepEqual([said.status, said.stdout], [0, ""]);
  assert.equal(
    said.stderr,
    `mount.ocifs: passed over: strange\nmount.ocifs: ${mountpoint} is ready (fuse, the default, daemon ${pid})\n`,
  );
});
