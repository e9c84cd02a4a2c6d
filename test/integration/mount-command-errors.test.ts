import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFile, cp, mkdir, readFile, truncate, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { MountSandbox, programLine } from "../support/mounted-image.js";
import { startRegistry, type TestRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { makeSampleLayer, pushSampleLayer, type SampleLayer } from "../support/sample-layer.js";

const auth = { user: "somebody", password: "right" };

interface Stage {
  readonly sandbox: MountSandbox;
  readonly layer: SampleLayer;
  readonly file: string;
  readonly mountpoint: string;
  /** Fails with this exit code and exactly one line that matches; leaves no mount and no daemon. */
  fails(args: readonly string[], status: number, message: RegExp): Promise<void>;
}

async function setStage(t: TestContext): Promise<Stage> {
  const sandbox = await MountSandbox.open(t);
  const layer = await makeSampleLayer(sandbox.directory);
  const mountpoint = await sandbox.mountpoint();
  const fails: Stage["fails"] = async (args, status, message) => {
    const result = await sandbox.mount(args);
    assert.match(result.stderr, /^mount\.ocifs: [^\n]+\n$/);
    assert.match(result.stderr, message);
    assert.deepEqual([result.status, result.stdout], [status, ""], result.stderr);
    assert.deepEqual(await sandbox.mounts(), []);
    assert.deepEqual(await sandbox.daemons(), []);
  };
  return { sandbox, layer, file: `file:${layer.blobPath}`, mountpoint, fails };
}

async function openRegistry(t: TestContext, layer: SampleLayer, withAuth: boolean): Promise<TestRegistry> {
  const registry = await startRegistry(withAuth ? { auth } : {});
  t.after(registry.stop);
  await pushSampleLayer(registry.host, layer, "some/image", withAuth ? auth : undefined);
  return registry;
}

test("wrong invocations: exit code 1", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, file, mountpoint, fails } = await setStage(t);
  await fails([file, mountpoint, "-o", "nosuchoption"], 1, /nosuchoption: unknown option/);
  await fails([file, mountpoint, "oci.nosuch=1"], 1, /oci\.nosuch: unknown option; the known ones are oci\.image, /);
  await fails([file, mountpoint, "-o", "rw"], 1, /rw: an image mounted by ocifs is read-only/);
  await fails([file, mountpoint, "-Z"], 1, /-Z: unknown option; see mount\.ocifs --help/);
  await fails([file], 1, /no mountpoint given; usage: /);
  await fails([file, join(mountpoint, "none")], 1, /mountpoint .*\/none: it does not exist; make it with mkdir/);
  await fails([file, layer.blobPath], 1, /mountpoint .*layer\.tar\.gz: it is not a directory/);
  await fails(["Not/A/Reference!!", mountpoint], 1, /Not\/A\/Reference!!/);
  await fails([file, mountpoint, `oci.zinfo=${layer.zinfo}`], 1, /oci\.zinfo: needs oci\.tarindex/);
  await fails([file, mountpoint, ...layer.words, "-o", "timeout=soon"], 1, /timeout: got "soon"/);
  const password = ["-o", "oci.username=x,oci.password_file=/does/not/exist"];
  await fails([file, mountpoint, ...layer.words, ...password], 32, /oci\.password_file: .*ENOENT/);
  await fails([file, join(sandbox.directory, `${"x".repeat(300)}`)], 32, /mountpoint .*File name too long/);
});

test("images that cannot be had: exit code 32 before it returns", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, mountpoint, fails } = await setStage(t);
  const open = await openRegistry(t, layer, false);
  const closed = await openRegistry(t, layer, true);
  const words = [mountpoint, ...layer.words, "-o", "timeout=2s"];
  const insecure = ["-o", "oci.insecure"];
  await fails([`${open.host}/no/such:1`, ...words, ...insecure], 32, /no\/such:1/);
  await fails([`${open.host}/some/image:2`, ...words, ...insecure], 32, /some\/image:2/);
  await fails(
    [`${open.host}/some/image:1`, ...words, ...insecure, "oci.layer=7"],
    32,
    /layer 7: the image has 1 layer/,
  );
  const wrongPassword = ["-o", "oci.insecure,oci.username=somebody,oci.password=wrong"];
  await fails([`${closed.host}/some/image:1`, ...words, ...wrongPassword], 32, /(401|credential|password|log ?in)/i);
  await fails([`${closed.host}/some/image:1`, ...words, ...insecure], 32, /(401|credential|password|log ?in)/i);
  await open.stop();
  // One that was never asked for: of the others the cache knows what they meant.
  await fails([`${open.host}/some/image:3`, ...words, ...insecure], 32, new RegExp(`${open.host}`));
  await fails([`file:${sandbox.directory}/none`, ...words], 32, /\/none/);
  await fails([`oci:${sandbox.directory}/none`, ...words], 32, /\/none/);
});

test("indexes that do not fit: exit code 32 before it returns", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, file, mountpoint, fails } = await setStage(t);
  const other = await makeSampleLayer(sandbox.directory, "-other");
  await fails([file, mountpoint, ...other.words], 32, /index .*\.json: is of blob sha256:.*, want sha256:/);
  await fails([file, mountpoint, `oci.tarindex=${sandbox.directory}/none`], 32, /none: .*/);

  // Copies without their JSON, as another tool would leave them.
  const bare = join(sandbox.directory, "bare");
  await mkdir(bare);
  const tarindex = join(bare, "a.tarindex");
  const zinfo = join(bare, "a.zinfo");
  await cp(layer.tarindex, tarindex);
  await cp(layer.zinfo, zinfo);
  const bareWords = [`oci.tarindex=${tarindex}`, `oci.zinfo=${zinfo}`];
  await fails(
    [file, mountpoint, `oci.tarindex=${tarindex}`],
    32,
    /bytes of tar, the blob has .*is it gzip, and oci\.zinfo missing\?/,
  );
  await fails(
    [file, mountpoint, ...bareWords, "-o", "verify=span"],
    1,
    /verify=span: .* has no JSON with span digests/,
  );
  await fails([file, mountpoint, `oci.tarindex=${layer.blobPath}`, `oci.zinfo=${zinfo}`], 32, /EROFS/);
  await fails([file, mountpoint, `oci.tarindex=${tarindex}`, `oci.zinfo=${tarindex}`], 32, /zinfo/);
  const whole = await readFile(tarindex);
  for (const size of [0, 100, 1024, 1100]) {
    await truncate(tarindex, size);
    await fails([file, mountpoint, ...bareWords], 32, /EROFS image/);
  }
  await writeFile(tarindex, whole);
  await truncate(zinfo, 1000);
  await fails([file, mountpoint, ...bareWords], 32, /zinfo/);

  await appendFile(layer.tarindex, Buffer.alloc(512));
  await fails(
    [file, mountpoint, ...layer.words],
    32,
    /tarindex: \d+ bytes, its JSON wants \d+; create the index again/,
  );
  await truncate(layer.tarindex, whole.length);
  const json = layer.tarindex.replace(/tarindex$/, "json");
  await writeFile(json, "{");
  await fails([file, mountpoint, ...layer.words], 32, /\.json/);
});

test("what this version does not have is refused by name", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { layer, file, mountpoint, fails } = await setStage(t);
  await fails([file, mountpoint, ...layer.words, "-o", "remount"], 1, /remount .*: no mount of ocifs is there/);
  await fails([file, mountpoint, ...layer.words, "-N", "/proc/0/ns/mnt"], 1, /-N \/proc\/0\/ns\/mnt: ENOENT/);
});

test("-f checks and mounts nothing", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, file, mountpoint, fails } = await setStage(t);
  await sandbox.mounted([file, mountpoint, ...layer.words, "-f"]);
  assert.deepEqual(await sandbox.mounts(), []);
  await fails([file, join(mountpoint, "none"), "-f"], 1, /it does not exist/);
});

test("an error of mount(2) is told with its reason", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { layer, file, mountpoint, fails } = await setStage(t);
  // No SELinux here: the kernel does not know the option.
  const selinux = ["-o", 'context="system_u:object_r:nonsense_t:s0"'];
  await fails([file, mountpoint, ...layer.words, ...selinux], 32, /mount .*: Invalid argument/);
});

test("a runtime directory or log that cannot be is an error of the mount", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, file, mountpoint } = await setStage(t);
  const refused = async (args: readonly string[], env: Record<string, string>, message: RegExp) => {
    const result = await sandbox.mount([file, mountpoint, ...layer.words, ...args], { env });
    assert.equal(result.status, 32, result.stderr);
    assert.match(result.stderr, message);
    assert.match(result.stderr, /^mount\.ocifs: [^\n]+\n$/);
    assert.deepEqual(await sandbox.mounts(), []);
  };
  await refused([], { OCIFS_RUNTIME_DIR: layer.blobPath }, /layer\.tar\.gz/);
  await refused([], { OCIFS_RUNTIME_DIR: "/dev/null/run" }, /\/dev\/null\/run/);
  await refused(["-o", `log=info:${layer.blobPath}/log`], {}, /layer\.tar\.gz/);
});

test("SIGINT while it waits for the registry: exit code 8, nothing is left", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, layer, mountpoint } = await setStage(t);
  // Accepts and says nothing.
  const silent = createServer();
  const connected = once(silent, "connection");
  await once(silent.listen(0, "127.0.0.1"), "listening");
  t.after(() => silent.close());
  const address = silent.address();
  const port = typeof address === "object" ? address?.port : undefined;
  const [node, program] = programLine("mount.ocifs");
  const args = [
    program,
    `127.0.0.1:${port}/a/b:1`,
    mountpoint,
    ...layer.words,
    "-o",
    `oci.insecure,cachedir=${sandbox.cache}`,
  ];
  const child = spawn(node, args, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...sandbox.env } });
  const [socket] = await connected;
  const exit = once(child, "exit");
  child.kill("SIGINT");
  assert.deepEqual(await exit, [8, null]);
  if (!socket.destroyed) await once(socket.resume(), "close");
  assert.deepEqual(await sandbox.mounts(), []);
});
