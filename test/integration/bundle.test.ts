import assert from "node:assert/strict";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { limits } from "../../src/base/limits.js";
import { convertToRuntimeConfig, type RuntimeConfig } from "../../src/bundle/conversion.js";
import { createBundle } from "../../src/bundle/create.js";
import { parseRunSettings } from "../../src/bundle/run-settings.js";
import { writeBusyboxImage } from "../support/busybox-image.js";
import { rejectsWith } from "../support/errors.js";
import { type Finished, MountSandbox, runCommand } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { requirePrograms, requireRootAndFuse } from "../support/requires.js";

const image = {
  User: "app",
  Env: ["GREETING=hello world"],
  Entrypoint: ["sh", "-c"],
  Cmd: ['id; echo "$GREETING"; cat /proc/self/mounts | head -n 1; touch /data/written && ls -nd /data'],
  WorkingDir: "/srv",
  Volumes: { "/data": {} },
};

interface Stage {
  readonly sandbox: MountSandbox;
  readonly bundle: string;
  make(args?: readonly string[]): Promise<Finished>;
  /** A command of a runtime, whose state lies in the sandbox. */
  runtime(name: "runc" | "crun", args: readonly string[]): Promise<Finished>;
}

async function setStage(t: TestContext): Promise<Stage> {
  const sandbox = await MountSandbox.open(t);
  const source = await writeBusyboxImage(sandbox.directory, image);
  const bundle = join(sandbox.directory, "bundle, a:b");
  const make = (args: readonly string[] = []) =>
    sandbox.ocifs(["bundle", source, bundle, "--cachedir", sandbox.cache, ...args]);
  // crun 1.8 refuses a machine with version 2 of cgroups mounted beside version 1; within this namespace there is the first only.
  const prepare = 'if findmnt -n /sys/fs/cgroup/unified >/dev/null; then umount /sys/fs/cgroup/unified; fi; exec "$@"';
  const prefix = ["unshare", "--mount", "sh", "-euc", prepare, "sh"];
  const runtime = (name: "runc" | "crun", args: readonly string[]) =>
    runCommand([name, "--root", join(sandbox.directory, name), ...args], name === "crun" ? { prefix } : {});
  return { sandbox, bundle, make, runtime };
}

const silent = { status: 0, stdout: "", stderr: "" };
const ready = (t: TestContext) => requireRootAndFuse(t) && requirePrograms(t, "runc", "crun", "busybox");

test("runc and crun run a bundle; unbundle leaves nothing behind", async (t) => {
  if (!ready(t)) return;
  const { sandbox, bundle, make, runtime } = await setStage(t);
  const made = await make();
  assert.equal(made.status, 0, made.stderr);
  for (const name of ["runc", "crun"] as const) {
    const ran = await runtime(name, ["run", "--bundle", bundle, `ocifs-test-${process.pid}-${name}`]);
    assert.equal(ran.status, 0, ran.stderr);
    const [id, greeting, root, volume] = ran.stdout.split("\n");
    assert.match(id ?? "", /^uid=1000\(app\) gid=1001\(app\) groups=.*27\(wheel\)/);
    assert.equal(greeting, "hello world");
    assert.match(root ?? "", / \/ overlay rw/);
    assert.match(volume ?? "", /^drwxr-x---\s+\d+ 1000\s+1001 /);
  }
  assert.deepEqual(await readdir(join(bundle, "volumes", "0")), ["written"]);
  assert.deepEqual(await sandbox.ocifs(["unbundle", bundle]), silent);
  assert.deepEqual(
    [await sandbox.mounts(), await readdir(sandbox.directory).then((names) => names.includes("bundle, a:b"))],
    [[], false],
  );
});

test("unbundle is refused while a container runs, or a file is open", async (t) => {
  if (!ready(t)) return;
  const { sandbox, bundle, make, runtime } = await setStage(t);
  const made = await make(["--entrypoint", "sleep", "--", "1000"]);
  assert.equal(made.status, 0, made.stderr);
  const id = `ocifs-test-${process.pid}-busy`;
  // Detached, a container holds the standard streams of its runtime.
  const detach = ["sh", "-euc", 'exec "$@" </dev/null >/dev/null 2>&1', "sh"];
  const started = await runCommand(
    ["runc", "--root", join(sandbox.directory, "runc"), "run", "--detach", "--bundle", bundle, id],
    { prefix: detach },
  );
  try {
    assert.equal(started.status, 0);
    const before = await sandbox.mounts();
    const refused = await sandbox.ocifs(["unbundle", bundle]);
    assert.deepEqual([refused.status, await sandbox.mounts()], [1, before]);
    assert.match(refused.stderr, /a container runs in it \(process \d+\)/);
  } finally {
    // Not after the test: the sandbox goes first then, and the container's root with it.
    await runtime("runc", ["delete", "--force", id]);
  }

  const inside = await sandbox.ocifs(["unbundle", bundle], { cwd: join(bundle, "rootfs") });
  assert.equal(inside.status, 1);
  assert.match(inside.stderr, /rootfs is in use/);
  await writeFile(join(bundle, "notes"), "of its user");
  const left = await sandbox.ocifs(["unbundle", bundle]);
  assert.deepEqual([left.status, await readdir(bundle)], [0, ["notes"]]);
  assert.match(left.stderr, /left there, not made by ocifs: notes/);
});

test("--read-only has no overlay; arguments follow the entrypoint", async (t) => {
  if (!ready(t)) return;
  const { sandbox, bundle, make, runtime } = await setStage(t);
  // An empty directory that is there stays.
  await mkdir(bundle);
  const made = await make([
    "--read-only",
    "-o",
    "nosuid",
    "--",
    "head -n 1 /proc/self/mounts; touch /x || echo refused",
    "0x10",
    "-t",
  ]);
  assert.equal(made.status, 0, made.stderr);
  const ran = await runtime("runc", ["run", "--bundle", bundle, `ocifs-test-${process.pid}-ro`]);
  assert.match(ran.stdout, /^\S+ \/ fuse\.ocifs ro,.*\nrefused\n$/);
  const { root, process: started } = JSON.parse(await readFile(join(bundle, "config.json"), "utf8")) as RuntimeConfig;
  assert.deepEqual([started.args.slice(3), started.terminal], [["0x10", "-t"], false]);
  assert.deepEqual(root, { path: "rootfs", readonly: true });
  assert.deepEqual(await sandbox.ocifs(["unbundle", bundle]), silent);
  assert.deepEqual(await readdir(bundle), []);
});

test("what cannot be made a bundle leaves nothing", async (t) => {
  if (!ready(t)) return;
  const { sandbox, bundle, make } = await setStage(t);
  const fails = async (done: Promise<Finished>, status: number, message: RegExp) => {
    const { status: got, stderr } = await done;
    assert.match(stderr, message);
    assert.equal(got, status);
    assert.deepEqual(await sandbox.mounts(), []);
  };
  await fails(make(["--entrypoint", ""]), 2, /names nothing to run; give a command behind --/);
  await fails(make(["-o", "foreground"]), 2, /remount and foreground make no sense/);
  await fails(make(["-o", "oci.layer=0"]), 2, /a bundle is of a whole image/);
  await fails(sandbox.ocifs(["unbundle", sandbox.directory]), 2, /it is no bundle made by ocifs bundle/);
  const large = await writeBusyboxImage(join(sandbox.directory, "large"), image, "x".repeat(limits.userFileBytes));
  await fails(sandbox.ocifs(["bundle", large, bundle, "--cachedir", sandbox.cache]), 1, /passwd.*the limit is 1048576/);
  await assert.rejects(stat(bundle), { code: "ENOENT" });
  await mkdir(join(bundle, "mine"), { recursive: true });
  await fails(make(), 2, /it is not empty \("mine"\)/);
  assert.deepEqual(await readdir(bundle), ["mine"]);
});

test("a creation that is interrupted or fails behind its mounts undoes them", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { directory, mounts } = await MountSandbox.open(t).then((sandbox) => ({
    directory: join(sandbox.directory, "bundle"),
    mounts: () => sandbox.mounts(),
  }));
  const settings = parseRunSettings(Buffer.from(JSON.stringify({ config: { Cmd: ["x"] } })), "config");
  const user = { uid: 0, gid: 0, additionalGids: [] };
  const choices = { args: [], readOnly: false, terminal: false, volumePath: String };
  const config = convertToRuntimeConfig({ settings, user, ...choices });
  const prepared = { config, volumes: [{ mode: 0o755, uid: 0, gid: 0 }], readOnly: false };
  const interruption = new AbortController();
  const steps: string[][] = [];
  const mountImage = async (path: string) => {
    await runProgram("mount", ["-t", "tmpfs", "none", path]);
    steps.push(await mounts());
    interruption.abort();
  };
  await rejectsWith(createBundle(directory, prepared, mountImage, interruption.signal), "aborted");
  const failing = async (path: string) => {
    await mountImage(path);
    throw new OcifsError("network", "registry: gone");
  };
  await rejectsWith(createBundle(directory, prepared, failing, new AbortController().signal), "network");
  assert.deepEqual(steps, [[join(directory, "image")], [join(directory, "image")]]);
  assert.deepEqual(await mounts(), []);
  await assert.rejects(stat(directory), { code: "ENOENT" });
});
