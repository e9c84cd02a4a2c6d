/** What may go wrong while the indexes of a first mount are built. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { digestOfBytes } from "../../src/oci/digest.js";
import { blobDirectory, cachedBytes, watchCachedBytes } from "../support/cache-watch.js";
import { LayersServer, type ServedLayer } from "../support/layers-server.js";
import { MountSandbox, processEnd, programLine } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { requireRootAndFuse } from "../support/requires.js";
import { buildTar } from "../support/tar-builder.js";

const MIB = 1 << 20;
const contents = [4 * MIB, 3 * MIB, 2 * MIB, MIB, 1000].map((size) => randomBytes(size));
const tars = contents.map((data, i) => buildTar([{ path: `file-${i}`, data }]));
const layers: readonly ServedLayer[] = tars.map((tar) => ({
  gz: gzipSync(tar, { level: 1 }),
  diffId: digestOfBytes(tar),
}));
const sizeOf = (layer: number) => layers[layer]?.gz.length ?? 0;

async function setStage(t: TestContext, served = layers) {
  const sandbox = await MountSandbox.open(t);
  const server = await LayersServer.start(served);
  t.after(() => server[Symbol.asyncDispose]());
  const mountpoint = await sandbox.mountpoint();
  const args = [server.reference, mountpoint, "-o", "oci.insecure"];
  const checkMounted = async () => {
    for (const [i, data] of contents.entries()) {
      assert.ok((await readFile(join(mountpoint, `file-${i}`))).equals(data), `file-${i}`);
    }
    await sandbox.unmount(mountpoint);
  };
  return { sandbox, server, mountpoint, args, checkMounted };
}

/** Starts mount.ocifs without waiting for it. */
function startMount(t: TestContext, sandbox: MountSandbox, args: readonly string[]): ChildProcess {
  const [program, script] = programLine("mount.ocifs");
  const child = spawn(program, [script, ...args, "-o", `cachedir=${sandbox.cache}`], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, ...sandbox.env },
  });
  t.after(() => void child.kill("SIGKILL"));
  return child;
}

for (const [how, status] of [
  ["SIGINT to the mount helper", 8],
  ["SIGKILL to the daemon", 4],
] as const) {
  test(`interrupted by ${how}, the next mount fetches the rest only`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const { sandbox, server, args, checkMounted } = await setStage(t);
    server.fault = (layer) => (layer === 0 ? server.serveStart(0, 2 * MIB + 5000) : undefined);
    const digest = server.digestOf(0);
    const { reached } = await watchCachedBytes(sandbox.cache, digest, sizeOf(0), 2 * MIB);
    const helper = startMount(t, sandbox, args);
    const said = text(helper.stderr as NodeJS.ReadableStream);
    const exited = once(helper, "exit");
    await reached;
    const [keeper = 0] = await sandbox.daemons();
    const daemon = Number(await readFile(`/proc/${keeper}/task/${keeper}/children`, "utf8"));
    if (status === 8) helper.kill("SIGINT");
    else process.kill(daemon, "SIGKILL");
    const [code] = await exited;
    assert.equal(code, status, await said);
    for (const pid of [daemon, keeper]) await processEnd(pid);
    const kept = await cachedBytes(sandbox.cache, digest, sizeOf(0));
    assert.ok(kept >= 2 * MIB);
    const left = (await readdir(blobDirectory(sandbox.cache, digest))).filter((name) => name.includes("filling"));
    assert.equal(left.length, status === 8 ? 0 : 1);

    server.fault = undefined;
    const before = server.requests(0).length;
    await sandbox.mountedFirst(args);
    assert.equal(server.askedBytes(0, before), sizeOf(0) - kept);
    for (const name of await readdir(blobDirectory(sandbox.cache, digest))) assert.doesNotMatch(name, /filling/);
    await checkMounted();
  });
}

test("a connection that breaks is taken up again where it was", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, server, args, checkMounted } = await setStage(t);
  server.fault = (layer) => {
    if (layer !== 0 || server.requests(0).length > 1) return undefined;
    return (request, response) => {
      const end = response.end.bind(response);
      response.end = ((body: Buffer) => {
        response.write(body.subarray(0, MIB), () => response.destroy());
        return response;
      }) as typeof end;
      server.serve(0)(request, response);
    };
  };
  await sandbox.mountedFirst(args);
  assert.equal(server.requests(0).length, 2);
  assert.ok(server.askedBytes(0, 1) < sizeOf(0));
  await checkMounted();
});

test("a server without ranges is streamed, and an interrupted stream begins again", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, server, args, checkMounted } = await setStage(t);
  server.rangesSupported = false;
  server.fault = (layer) => (layer === 0 ? server.serveStart(0, 2 * MIB + 5000) : undefined);
  const { reached } = await watchCachedBytes(sandbox.cache, server.digestOf(0), sizeOf(0), 2 * MIB);
  const helper = startMount(t, sandbox, args);
  const exited = once(helper, "exit");
  await reached;
  helper.kill("SIGINT");
  assert.deepEqual(await exited, [8, null]);
  server.fault = undefined;
  await sandbox.mountedFirst(args);
  assert.equal(server.requests(0).length, 2);
  await checkMounted();
});

for (const [what, change] of [
  ["digest", { digest: digestOfBytes(Buffer.from("another blob")) }],
  ["diffID", { diffId: digestOfBytes(Buffer.from("another tar")) }],
] as const) {
  test(`one layer of five with another ${what}: no mount, the layer is named, and nothing of it is used`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const { sandbox, server, args, mountpoint } = await setStage(
      t,
      layers.map((layer, i) => (i === 2 ? { ...layer, ...change } : layer)),
    );
    const done = await sandbox.mount(args);
    assert.equal(done.status, 32);
    assert.match(done.stderr, new RegExp(`layer 2 of 5 \\(${server.digestOf(2)}\\): .*sha256:[0-9a-f]{64}`));
    assert.deepEqual(await readdir(mountpoint), []);
    const names = await readdir(blobDirectory(sandbox.cache, server.digestOf(2)));
    assert.deepEqual(names.sort(), ["compressed", "use"]);
    const kept = await cachedBytes(sandbox.cache, server.digestOf(2), sizeOf(2));
    assert.equal(kept, what === "digest" ? 0 : sizeOf(2));
    assert.deepEqual(await sandbox.daemons(), []);
  });
}

test("on a terminal a bar shows how far it is", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, args, checkMounted } = await setStage(t);
  const onTerminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
  const { status, stdout } = await sandbox.mount(args, { prefix: ["python3", "-c", onTerminal] });
  assert.equal(status, 0, stdout);
  assert.match(stdout, /index of 5 layers .* 100% (\d+\.\d MiB) of \1/);
  await checkMounted();
});

test("a layer that fails ends the others", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, server, args } = await setStage(t);
  // The others would never come to an end.
  server.fault = (layer) => {
    if (layer !== 4) return server.serveStart(layer, 100_000);
    return (_, response) =>
      void server
        .until(() => server.requests(0).length > 0)
        .then(() => {
          response.writeHead(404);
          response.end();
        });
  };
  const done = await sandbox.mount(args);
  assert.equal(done.status, 32);
  assert.match(done.stderr, /layer 4 of 5 \(sha256:/);
});

test("an index in the cache that is damaged, or of another version, is built again without a fetch", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, server, args, checkMounted } = await setStage(t);
  await sandbox.mountedFirst(args);
  await checkMounted();
  const directory = join(sandbox.cache, "indexes", "sha256", server.digestOf(0).slice(7));
  for (const [suffix, content] of [
    [".tarindex", "damaged"],
    [".json", '{"version": 1}'],
    [".json", ""],
  ] as const) {
    const name = (await readdir(directory)).find((each) => each.endsWith(suffix)) ?? "";
    await writeFile(join(directory, name), content);
    const { status, stderr } = await sandbox.mount(args);
    assert.equal(status, 0, stderr);
    assert.match(stderr, /warning: the index in the cache cannot be used and is built again: /);
    await checkMounted();
  }
  assert.equal(server.requests(0).length, 1);
});

// All of it takes 21 MiB: it fills up while the uncompressed bytes come, or even the blobs; the last has no room for an index.
for (const size of ["18m", "6m", "64k"]) {
  test(`a cache on a disk of ${size} that fills up: the mount is made all the same`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const { sandbox, args, checkMounted } = await setStage(t);
    await mkdir(sandbox.cache);
    await runProgram("mount", ["-t", "tmpfs", "-o", `size=${size}`, "none", sandbox.cache]);
    const { status, stderr } = await sandbox.mount(args);
    assert.equal(status, 0, stderr);
    assert.match(stderr, /warning: .*while its index is built: .*no space left on device/i);
    await checkMounted();
    for (const hex of await readdir(join(sandbox.cache, "blobs", "sha256"))) {
      const names = await readdir(join(sandbox.cache, "blobs", "sha256", hex));
      assert.doesNotMatch(names.join(), /filling/);
    }
  });
}

test("a cache that cannot be written: each mount builds its index, and says so", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { sandbox, server, args, checkMounted } = await setStage(t);
  await writeFile(sandbox.cache, "a file where the cache should be");
  const temporary = join(sandbox.directory, "tmp");
  await mkdir(temporary);
  for (const round of [1, 2]) {
    const { status, stderr } = await sandbox.mount(args, { env: { TMPDIR: temporary } });
    assert.equal(status, 0, stderr);
    assert.match(stderr, /warning: the cache cannot be written; the index is built for this mount only: /);
    assert.deepEqual(await readdir(temporary), []);
    await checkMounted();
    assert.ok(server.requests(4).length >= round);
  }
  await rm(sandbox.cache);
});
