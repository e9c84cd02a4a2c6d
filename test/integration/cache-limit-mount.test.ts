import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { treeUsage } from "../../src/native/sparse.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { MountSandbox } from "../support/mounted-image.js";
import { requireRootAndFuse } from "../support/requires.js";

const run = promisify(execFile);
const MIB = 1 << 20;
const limitBytes = 8 * MIB;

interface SetUp {
  readonly fixture: LayerFixture;
  readonly sandbox: MountSandbox;
  readonly server: ImageServer;
  readonly args: readonly string[];
  readonly samples: number[];
}

/** An image three times as large as its cache may be. */
async function setUp(t: TestContext): Promise<SetUp> {
  const sizes = { one: 8 * MIB, two: 8 * MIB, three: 8 * MIB };
  const fixture = await makeLayerFixture(t, { files: sizes, random: true, spanSizeBytes: MIB });
  const sandbox = await MountSandbox.open(t);
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  const samples: number[] = [];
  server.fault = (request, response) => {
    void sample(sandbox, samples).then(() => server.serveLayer(request, response));
  };
  const { tarindexPath, zinfoPath } = fixture.index;
  const words = `oci.insecure,oci.tarindex=${tarindexPath},oci.zinfo=${zinfoPath},cachesize=8M`;
  return { fixture, sandbox, server, args: [server.reference, "-o", words], samples };
}

async function sample(sandbox: MountSandbox, samples: number[]): Promise<void> {
  samples.push(await treeUsage(sandbox.cache));
}

async function checkFiles(mountpoint: string, { fixture, sandbox, samples }: SetUp): Promise<void> {
  const reading = [...fixture.files].map(async ([name, content]) => {
    // By other processes: reads that wait would take all of this one's threads, and the server is in it.
    const { stdout } = await run("sha256sum", [join(mountpoint, name)]);
    assert.equal(stdout.split(" ")[0], createHash("sha256").update(content).digest("hex"), `${name}: wrong bytes`);
    await sample(sandbox, samples);
  });
  await Promise.all(reading);
}

test("a mount keeps its cache under cachesize while an image three times as large is read", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const all = await setUp(t);
  const { sandbox, args, samples } = all;
  const mountpoint = await sandbox.mountpoint();
  await sandbox.mounted([args[0] ?? "", mountpoint, ...args.slice(1)]);
  await checkFiles(mountpoint, all);
  const { cacheSizeBytes, state, errors } = await sandbox.status(mountpoint);
  assert.deepEqual([cacheSizeBytes, state, errors], [limitBytes, "ready", 0]);
  await sandbox.unmount(mountpoint);
  await sample(sandbox, samples);
  assert.ok(samples.length > 5, `${samples.length} samples`);
  assert.ok(Math.max(...samples) <= limitBytes, `${Math.max(...samples)} bytes`);
  assert.ok(Math.max(...samples) > limitBytes / 2, `${Math.max(...samples)} bytes at most`);
});

test("two mounts that share a cache keep to cachesize together", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const all = await setUp(t);
  const { sandbox, args, samples } = all;
  const mountpoints = [await sandbox.mountpoint("a"), await sandbox.mountpoint("b")];
  for (const mountpoint of mountpoints) await sandbox.mounted([args[0] ?? "", mountpoint, ...args.slice(1)]);
  await Promise.all(mountpoints.map((mountpoint) => checkFiles(mountpoint, all)));
  for (const mountpoint of mountpoints) assert.equal((await sandbox.status(mountpoint)).errors, 0);
  assert.ok(Math.max(...samples) <= limitBytes, `${Math.max(...samples)} bytes`);
});

test("reads across two spans end, also where the cache has room for one of them only", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const all = await setUp(t);
  const { fixture, sandbox, args, server } = all;
  const mountpoint = await sandbox.mountpoint();
  const tight = args.map((word) => word.replace("cachesize=8M", "cachesize=2560K"));
  await sandbox.mounted([tight[0] ?? "", mountpoint, ...tight.slice(1)]);
  const content = fixture.files.get("two") ?? assert.fail("no such file");
  await using file = await open(join(mountpoint, "two"), constants.O_RDONLY | constants.O_DIRECT);
  const piece = Buffer.alloc(128 << 10);
  for (let border = 1; border < 8; border++) {
    // A file starts somewhere in a span: reads of its whole length, so that some lie across every border.
    for (let at = border * MIB - (piece.length >> 1); at < border * MIB + MIB / 2; at += piece.length) {
      const { bytesRead } = await file.read(piece, 0, piece.length, at);
      assert.ok(content.subarray(at, at + bytesRead).equals(piece.subarray(0, bytesRead)), `wrong bytes at ${at}`);
    }
  }
  assert.equal((await sandbox.status(mountpoint)).errors, 0);
  // Each span is needed twice at most; who gives up one for the other fetches both without end.
  assert.ok(server.blobRequests < 200, `${server.blobRequests} requests`);
});
