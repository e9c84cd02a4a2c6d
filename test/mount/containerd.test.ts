import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { appLayer, baseLayer, pushContainerImage } from "../support/container-images.js";
import { ContainerdSandbox } from "../support/containerd.js";
import { startRegistry } from "../support/registry.js";
import { requireRootAndFuse } from "../support/requires.js";
import { tempDirectory } from "../support/temp.js";

interface Setting {
  readonly sandbox: ContainerdSandbox;
  readonly base: string;
  readonly app: string;
  readonly stopRegistry: () => Promise<void>;
  readonly accessLog: () => Promise<string>;
}

async function setUp(t: TestContext, options: { readonly insecure?: readonly string[] } = {}): Promise<Setting> {
  const work = await tempDirectory(t);
  const log = join(work, "access.log");
  const registry = await startRegistry({ accessLogPath: log });
  t.after(() => registry.stop());
  const layer = await baseLayer(work);
  const base = await pushContainerImage(registry.host, "team/base", [layer]);
  const app = await pushContainerImage(registry.host, "team/app", [layer, appLayer("app")]);
  const sandbox = await ContainerdSandbox.open(options.insecure ?? [registry.host]);
  t.after(() => sandbox[Symbol.asyncDispose]());
  return { sandbox, base, app, stopRegistry: registry.stop, accessLog: () => readFile(log, "utf8") };
}

const hello = ["/tool", "cat", "/etc/hello"];

/** Nothing tells that collection is over: it is looked for. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await delay(20);
}

test("containerd pulls, runs, removes and restarts with images that are mounted", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, base, app, stopRegistry, accessLog } = await setUp(t);
  await sandbox.pull(app);
  assert.ok((await sandbox.ctrOut("images", "ls", "-q")).split("\n").includes(app));

  await t.test("no layer is in containerd's content store; the image is one mount", async () => {
    const content = (await sandbox.ctrOut("content", "ls", "-q")).trim().split("\n");
    assert.equal(content.length, 2, "manifest and config");
    assert.equal((await sandbox.mounts()).filter((path) => path.includes("/snapshotter/mounts/")).length, 1);
  });

  await t.test("two containers read the image, each has its own writable layer", async () => {
    const first = await sandbox.run(app, hello).end;
    assert.deepEqual(first, { status: 0, stdout: "hello from app\n" });
    const written = await sandbox.run(app, ["/tool", "write", "/etc/hello", "mine"]).end;
    assert.deepEqual(written, { status: 0, stdout: "mine" });
    assert.deepEqual(await sandbox.run(app, hello).end, first);
    const gone = await sandbox.run(app, ["/tool", "cat", "/etc/gone"]).end;
    assert.equal(gone.status, 1);
  });

  await t.test("an image whose layers are the lowest of a mounted one shows those only", async () => {
    await sandbox.pull(base);
    assert.deepEqual(await sandbox.run(base, hello).end, { status: 0, stdout: "hello from the base\n" });
    assert.equal((await sandbox.run(base, ["/tool", "cat", "/etc/gone"]).end).status, 0);
  });

  await t.test("ocifs pull makes the image known in another namespace, with the same mount", async () => {
    const mounts = await sandbox.mounts();
    assert.deepEqual(await sandbox.ocifsPull(app), { status: 0, stdout: `${app}\n`, stderr: "" });
    const id = basename(sandbox.directory);
    const run = ["--namespace", "default", "run", "--rm", "--snapshotter", "ocifs", app, id];
    assert.equal(await sandbox.ctrOut(...run, ...hello), "hello from app\n");
    assert.deepEqual(await sandbox.mounts(), mounts);
    await sandbox.ctrOut("--namespace", "default", "images", "rm", app);
  });

  await t.test("usage is what the cache and the writable layers take up", async () => {
    const lines = (await sandbox.ctrOut("snapshots", "--snapshotter", "ocifs", "usage")).trim().split("\n").slice(1);
    assert.equal(lines.length, 2, lines.join());
    for (const line of lines) assert.doesNotMatch(line, /\s0\.0 B\s/);
  });

  await t.test("a container goes on while the snapshotter is killed, and is served by the next one", async () => {
    const running = sandbox.run(app, ["/tool", "serve", "/etc/hello"]);
    assert.equal(await running.firstLine, "hello from app");
    await sandbox.stopSnapshotter("SIGKILL");
    await stopRegistry();
    running.process.stdin?.write("x");
    await sandbox.startSnapshotter();
    await sandbox.reconnected();
    assert.deepEqual(await sandbox.run(app, hello).end, { status: 0, stdout: "hello from app\n" });
    running.process.stdin?.end();
    const { status, stdout } = await running.end;
    assert.equal(stdout, "hello from app\nhello from app\n");
    assert.equal(status, 0);
  });

  await t.test("containerd starts again, and the mounts are made again without the registry", async () => {
    await sandbox.stopContainerd();
    await sandbox.stopSnapshotter();
    const requests = (await accessLog()).length;
    await sandbox.unmountImages();
    await sandbox.startSnapshotter();
    await sandbox.startContainerd();
    assert.deepEqual(await sandbox.run(app, hello).end, { status: 0, stdout: "hello from app\n" });
    assert.equal((await accessLog()).length, requests);
  });

  await t.test("images that are removed are collected, and unmounted", async () => {
    await sandbox.removeImage(app);
    await sandbox.removeImage(base);
    const left = async (name: string) => (await readdir(join(sandbox.snapshotterRoot, name))).length;
    await until(async () => (await left("records")) + (await left("snapshots")) + (await left("removed")) === 0);
    await until(async () => (await left("mounts")) === 0);
    assert.deepEqual(
      (await sandbox.mounts()).filter((path) => path.includes("/snapshotter/")),
      [],
    );
  });
});

test("what cannot be mounted is unpacked by containerd, and says why", async (t) => {
  if (!requireRootAndFuse(t)) return;
  // To a registry that is not said to be one of plain HTTP, ocifs speaks TLS in vain.
  const { sandbox, app } = await setUp(t, { insecure: [] });
  const refused = await sandbox.ocifsPull(app);
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /the snapshotter "ocifs" does not mount layer 0; its log says why/);
  await sandbox.pull(app);
  assert.deepEqual(await sandbox.run(app, hello).end, { status: 0, stdout: "hello from app\n" });
  assert.equal((await sandbox.run(app, ["/tool", "cat", "/etc/gone"]).end).status, 1);
  assert.deepEqual(
    (await sandbox.mounts()).filter((path) => path.includes("/snapshotter/mounts/")),
    [],
  );
  const log = (await readFile(sandbox.logPath("snapshotter"), "utf8")).split("\n");
  assert.match(log.find((line) => line.includes("a layer is pulled, not mounted")) ?? "", /TLS failed/);
});
