import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { chmod, readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { silentLog } from "../../src/base/log.js";
import { toMountConfig } from "../../src/cli/mount-config.js";
import { parseMountCommand } from "../../src/cli/mount-grammar.js";
import {
  type DaemonMessage,
  HandoverChannel,
  type HelperMessage,
  handoverSocketPath,
} from "../../src/daemon/handover.js";
import { takeHandovers } from "../../src/daemon/handover-server.js";
import type { MountConfig } from "../../src/daemon/mount-config.js";
import { MountTable } from "../../src/daemon/mount-table.js";
import { connectSocket, SocketPoller } from "../../src/native/fdpass.js";
import { FdSocket } from "../../src/serve/fd-socket.js";
import { MountSandbox, processEnd, programLine, runCommand } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, pushSampleLayer, type SampleLayer, sampleBig } from "../support/sample-layer.js";
import { SharedDaemon } from "../support/shared-daemon.js";
import { tempDirectory } from "../support/temp.js";

interface Stage {
  readonly sandbox: MountSandbox;
  readonly layer: SampleLayer;
  readonly daemon: SharedDaemon;
  /** Mounts the layer at a directory of this name through the shared daemon. */
  mount(name: string): Promise<string>;
}

async function setStage(t: TestContext): Promise<Stage> {
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const daemon = await SharedDaemon.start(t, sandbox);
  const mount = async (name: string) => {
    const mountpoint = await sandbox.mountpoint(name);
    await sandbox.mounted([`file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", "daemon=shared"]);
    return mountpoint;
  };
  return { sandbox, layer, daemon, mount };
}

const bigSum = createHash("md5").update(sampleBig).digest("hex");
const bigOf = (mountpoint: string) => readFile(join(mountpoint, "big"));

test("one daemon serves the mounts that helpers hand over, and outlives each of them", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { daemon, mount, sandbox } = await setStage(t);
  const [first, second] = [await mount("a"), await mount("b")];
  const mounts = await daemon.mounts();
  assert.deepEqual(mounts.map((each) => each.mountpoint).sort(), [first, second]);
  assert.equal(new Set(mounts.map((each) => each.pid)).size, 1);
  assert.deepEqual(
    mounts.map((each) => each.mountNamespace),
    [null, null],
  );
  await runProgram("umount", [first]);
  await daemon.mountsWhen(1);
  assert.deepEqual(await bigOf(second), sampleBig);
  await runProgram("umount", [second]);
  await daemon.mountsWhen(0);
  assert.deepEqual(await bigOf(await mount("a")), sampleBig);
  assert.equal(await daemon.stop(), 0);
  assert.deepEqual(await sandbox.mounts(), []);
});

test("what is wrong with a mount is its helper's error, with the daemon's words, and leaves nothing behind", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, daemon } = await setStage(t);
  const registry = await startRegistry({ auth: { user: "somebody", password: "right" } });
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image", { user: "somebody", password: "right" });
  const mountpoint = await sandbox.mountpoint();
  const image = `${registry.host}/some/image:1`;
  const login = (password: string) => [
    "-o",
    `daemon=shared,oci.insecure,oci.username=somebody,oci.password=${password}`,
  ];
  const refused = await sandbox.mount([image, mountpoint, ...layer.words, ...login("wrong-8d1f")]);
  assert.equal(refused.status, 32);
  assert.match(refused.stderr, /does not accept the password of user "somebody"/);
  const missing = await sandbox.mount([
    `file:${sandbox.directory}/none`,
    mountpoint,
    ...layer.words,
    ...["-o", "daemon=shared"],
  ]);
  assert.equal(missing.status, 32);
  assert.match(missing.stderr, /none/);
  assert.deepEqual([await sandbox.mounts(), await daemon.mounts()], [[], []]);
  await sandbox.mounted([image, mountpoint, ...layer.words, ...login("right")]);
  assert.deepEqual(await bigOf(mountpoint), sampleBig);
  const [{ pid, keeperPid } = assert.fail()] = await daemon.mounts();
  for (const process of [pid, keeperPid]) {
    for (const file of ["cmdline", "environ"]) {
      assert.doesNotMatch(await readFile(`/proc/${process}/${file}`, "latin1"), /somebody|wrong-8d1f|oci\.password/);
    }
  }
  assert.doesNotMatch(daemon.log, /wrong-8d1f|"right"/);
});

test("the logins of who asks for the mount are used, not the daemon's", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer } = await setStage(t);
  const auth = { user: "somebody", password: "right" };
  const registry = await startRegistry({ auth });
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image", auth);
  const mountpoint = await sandbox.mountpoint();
  const file = join(sandbox.directory, "auth.json");
  const encoded = Buffer.from("somebody:right").toString("base64");
  await runCommand(["tee", file], { stdin: JSON.stringify({ auths: { [registry.host]: { auth: encoded } } }) });
  const args = [`${registry.host}/some/image:1`, mountpoint, ...layer.words, "-o", "daemon=shared,oci.insecure"];
  assert.equal((await sandbox.mount(args)).status, 32);
  await sandbox.mounted(args, { env: { REGISTRY_AUTH_FILE: file } });
  assert.deepEqual(await bigOf(mountpoint), sampleBig);
});

test("its mounts outlive it, and an upgrade", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, daemon, mount } = await setStage(t);
  const mountpoints = [await mount("a"), await mount("b")];
  const [{ pid } = assert.fail()] = await daemon.mounts();
  process.kill(pid, "SIGKILL");
  await processEnd(pid);
  for (const mountpoint of mountpoints) assert.deepEqual(await bigOf(mountpoint), sampleBig);
  const [{ pid: second, restarts } = assert.fail()] = await daemon.mountsWhen(2);
  assert.notEqual(second, pid);
  assert.equal(restarts, 1);
  const upgraded = await sandbox.ocifs(["upgrade"]);
  assert.equal(upgraded.status, 0, upgraded.stderr);
  assert.match(upgraded.stdout, new RegExp(`^daemon ${second} .* is now \\d+ .*: .*/[ab], .*/[ab]\n$`));
  const third = await mount("c");
  for (const mountpoint of [...mountpoints, third]) assert.deepEqual(await bigOf(mountpoint), sampleBig);
  assert.equal(await daemon.stop(), 0);
  assert.deepEqual(await sandbox.mounts(), []);
});

test("without it, a mount has a daemon of its own, unless the shared one was asked for", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const args = [`file:${layer.blobPath}`, mountpoint, ...layer.words];
  const refused = await sandbox.mount([...args, "-o", "daemon=shared"]);
  assert.equal(refused.status, 32);
  assert.match(refused.stderr, /^mount\.ocifs: daemon=shared: no shared daemon takes mounts/);
  await sandbox.mounted(args);
  const { pid, keeperPid } = await sandbox.status(mountpoint);
  assert.match(await readFile(`/proc/${keeperPid}/cmdline`, "latin1"), /ocifs-keeper\0.*main\.js\0$/);
  await sandbox.unmount(mountpoint);
  await processEnd(pid);
});

test("a daemon of another version, and options that it cannot honour, lead to a daemon of the mount's own", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, daemon } = await setStage(t);
  const args = async (name: string) => [`file:${layer.blobPath}`, await sandbox.mountpoint(name), ...layer.words];
  const [shared] = await daemon.mounts();
  assert.equal(shared, undefined);
  await sandbox.mounted([...(await args("a")), "-o", "log=debug"]);
  assert.equal((await sandbox.mount([...(await args("b")), "-o", "log=debug,daemon=shared"])).status, 32);
  await daemon.stop();
  const stranger = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    socket.write(`${JSON.stringify({ hello: { version: "0.0.0-other", pid: 1, mountNamespace: "mnt:[1]" } })}\n`);
  });
  stranger.listen(handoverSocketPath(sandbox.runtime));
  await once(stranger, "listening");
  t.after(() => stranger.close());
  await sandbox.mounted(await args("c"));
  const other = await sandbox.mount([...(await args("d")), "-o", "daemon=shared"]);
  assert.match(other.stderr, /it is version 0\.0\.0-other, this is /);
  const pids = (await daemon.mounts()).map(({ pid }) => pid);
  assert.equal(new Set(pids).size, 2);
});

test("-N mounts in another mount namespace, with a daemon of its own and with the shared one", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const other = await startNamespace(t);
  const inside = (...command: string[]) => runCommand(["nsenter", "--mount", "--target", String(other), ...command]);
  const args = [`file:${layer.blobPath}`, mountpoint, ...layer.words, "-N", String(other)];

  await sandbox.mounted([...args, "-o", "daemon=own"]);
  assert.deepEqual(await sandbox.mounts(), []);
  assert.equal((await inside("md5sum", join(mountpoint, "big"))).stdout.slice(0, 32), bigSum);
  const own = await sandbox.status(mountpoint);
  assert.match(own.mountNamespace ?? "", /^mnt:\[\d+\]$/);
  // A daemon that is stopped takes its mount away there, too.
  process.kill(own.pid, "SIGTERM");
  await processEnd(own.pid);
  assert.equal((await inside("mountpoint", "-q", mountpoint)).status, 32);

  const daemon = await SharedDaemon.start(t, sandbox);
  await sandbox.mounted([...args, "-o", "daemon=shared"]);
  assert.deepEqual(await sandbox.mounts(), []);
  assert.equal((await inside("md5sum", join(mountpoint, "big"))).stdout.slice(0, 32), bigSum);
  const [{ pid, mountNamespace } = assert.fail()] = await daemon.mounts();
  assert.equal(mountNamespace, own.mountNamespace);
  process.kill(pid, "SIGKILL");
  await processEnd(pid);
  assert.equal((await inside("cat", join(mountpoint, "hello"))).stdout, "hello \n");
  await daemon.mountsWhen(1);
  assert.equal(await daemon.stop(), 0);
  assert.equal((await inside("mountpoint", "-q", mountpoint)).status, 32);
});

test("a helper in another mount namespace gets its mount there", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, daemon } = await setStage(t);
  const registry = await startRegistry();
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image");
  const mountpoint = await sandbox.mountpoint();
  const other = await startNamespace(t);
  const prefix = ["nsenter", "--mount", "--target", String(other)];
  const args = [`${registry.host}/some/image:1`, mountpoint, ...layer.words, "-o", "daemon=shared,oci.insecure"];
  await sandbox.mounted(args, { prefix });
  assert.deepEqual(await sandbox.mounts(), []);
  const [mount] = await daemon.mounts();
  assert.match(mount?.mountNamespace ?? "", /^mnt:/);
  // The same path, another directory.
  await runCommand([...prefix, "mount", "-t", "tmpfs", "none", sandbox.cache]);
  const local = await sandbox.mount(args, { prefix });
  assert.equal(local.status, 32);
  assert.ok(local.stderr.includes(`where ${sandbox.cache} leads elsewhere`), local.stderr);
  // With the namespace goes the mount.
  process.kill(other, "SIGKILL");
  await daemon.mountsWhen(0);
});

test("another user's helper is turned away, and one that leaves takes its mount along", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const directory = await tempDirectory(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const path = join(directory, "socket");
  const stopping = new AbortController();
  const table = new MountTable(silentLog, stopping.signal);
  const server = await takeHandovers(path, table, silentLog);
  t.after(async () => {
    await server[Symbol.asyncDispose]();
    await table[Symbol.asyncDispose]();
  });
  await chmod(directory, 0o755);
  await chmod(path, 0o777);
  const connect = `
import os, socket, sys
os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
print(len(s.recv(100)))
`;
  assert.equal((await runCommand(["python3", "-c", connect, path])).stdout, "0\n");

  using poller = new SocketPoller();
  using channel = new HandoverChannel<HelperMessage, DaemonMessage>(new FdSocket(connectSocket(path), poller));
  assert.ok("hello" in (await channel.receive()).message);
  await channel.send({ mount: await configOf(sandbox, layer), places: [] });
  assert.deepEqual((await channel.receive()).message, { makeMount: true });
  channel[Symbol.dispose]();
  await table.empty();
  assert.equal(table.size, 0);
});

test("a service goes on with the mount that its manager has kept, and replaces one that nobody serves", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const keeper = join(programLine("ocifs")[1], "..", "..", "..", "..", "native", "build", "Release", "ocifs-keeper");
  const options = ["-o", `foreground,cachedir=${sandbox.cache},${layer.words.join(",")}`];
  // To what it starts, the keeper is what systemd is with its file descriptor store.
  const start = async () => {
    const args = [...programLine("mount.ocifs"), ...options, "--", `file:${layer.blobPath}`, mountpoint];
    const child = spawn(keeper, args, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...sandbox.env } });
    for (let said = ""; !said.includes("is ready"); ) said += await once(child.stderr, "data");
    return child;
  };
  const service = await start();
  t.after(() => service.kill("SIGTERM"));
  const { pid } = await sandbox.status(mountpoint);
  process.kill(pid, "SIGKILL");
  assert.deepEqual(await bigOf(mountpoint), sampleBig);
  await sandbox.kill(mountpoint);
  await assert.rejects(readFile(join(mountpoint, "hello")), { code: "ENOTCONN" });
  const second = await start();
  assert.deepEqual(await bigOf(mountpoint), sampleBig);
  const exited = once(second, "exit");
  second.kill("SIGTERM");
  assert.deepEqual(await exited, [0, null]);
  assert.deepEqual(await sandbox.mounts(), []);
});

async function configOf(sandbox: MountSandbox, layer: SampleLayer): Promise<MountConfig> {
  const mountpoint = await sandbox.mountpoint();
  const args = [`file:${layer.blobPath}`, mountpoint, ...layer.words, "-o", `cachedir=${sandbox.cache}`];
  const command = parseMountCommand(args);
  return await toMountConfig(command.kind === "mount" ? command.request : assert.fail(), mountpoint);
}

/** A process in a mount namespace of its own; its pid. */
async function startNamespace(t: TestContext): Promise<number> {
  const child = spawn("unshare", ["--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout, "data");
  return child.pid ?? assert.fail();
}
