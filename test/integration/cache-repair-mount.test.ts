/** Cache files that are not what they should be, under real mounts. */
import assert from "node:assert/strict";
import { constants } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { blobDirectory } from "../support/cache-watch.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { MountSandbox } from "../support/mounted-image.js";
import { runProgram } from "../support/process.js";
import { requireRootAndFuse } from "../support/requires.js";

/** Offsets in the header of `spans`; docs/FORMATS.md. */
const BOOT_ID_OFFSET = 32;
const FLAGS_OFFSET = 48;

interface Stage {
  readonly fixture: LayerFixture;
  readonly server: ImageServer;
  readonly sandbox: MountSandbox;
  readonly mountpoint: string;
  mount(...words: string[]): Promise<void>;
  /** A file of the layer in the cache. */
  cacheFile(prefix: string): Promise<string>;
  /** Every file past the page cache, compared. */
  checkAll(): Promise<void>;
}

async function setUp(t: TestContext): Promise<Stage> {
  const fixture = await makeLayerFixture(t, {
    files: { first: 300_000, middle: 500_000, last: 200_000 },
    random: true,
  });
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  const sandbox = await MountSandbox.open(t);
  const mountpoint = await sandbox.mountpoint();
  const directory = blobDirectory(sandbox.cache, fixture.index.manifest.blob.digest);
  // Small spans, so that damage is in some of them only.
  const args = ["index", "create", server.reference, "--insecure", "--span", "64K", "--cachedir", sandbox.cache];
  const made = await sandbox.ocifs(args);
  assert.equal(made.status, 0, made.stderr);
  return {
    fixture,
    server,
    sandbox,
    mountpoint,
    mount: (...words) => sandbox.mounted([server.reference, mountpoint, "-o", ["oci.insecure", ...words].join(",")]),
    cacheFile: async (prefix) => {
      const name = (await readdir(directory)).find((each) => each.startsWith(prefix) && !each.endsWith(".verified"));
      return join(directory, name ?? assert.fail(`no ${prefix} in ${directory}`));
    },
    checkAll: async () => {
      for (const [name, content] of fixture.files) {
        const bytes = await readDirectly(join(mountpoint, name), content.length);
        assert.ok(content.equals(bytes), `${name}: wrong bytes`);
      }
    },
  };
}

async function readDirectly(path: string, sizeBytes: number): Promise<Buffer> {
  await using file = await open(path, constants.O_RDONLY | constants.O_DIRECT);
  const bytes = Buffer.alloc(sizeBytes);
  let at = 0;
  while (at < sizeBytes) {
    const { bytesRead } = await file.read(bytes, at, sizeBytes - at, at);
    assert.ok(bytesRead > 0, `${path} ends at ${at}`);
    at += bytesRead;
  }
  return bytes;
}

async function patch(path: string, changes: readonly (readonly [offset: number, bytes: Uint8Array])[]): Promise<void> {
  await using file = await open(path, "r+");
  for (const [offset, bytes] of changes) await file.write(bytes, 0, bytes.length, offset);
}

async function flip(path: string, ...offsets: readonly number[]): Promise<void> {
  await using file = await open(path, "r+");
  for (const offset of offsets) {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    await file.write(Buffer.of((byte[0] ?? 0) ^ 0x20), 0, 1, offset);
  }
}

test("a machine that went down in the middle: states that say more than the disk has are not believed", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { server, sandbox, mountpoint, mount, cacheFile, checkAll } = await setUp(t);
  await mount();
  await checkAll();
  await sandbox.kill(mountpoint);
  await runProgram("umount", [mountpoint]);
  // Another boot, nothing was flushed: the states are there, the bytes they speak of are zeros or holes.
  await patch(await cacheFile("spans-"), [
    [BOOT_ID_OFFSET, Buffer.alloc(16, 7)],
    [FLAGS_OFFSET, Buffer.alloc(4)],
  ]);
  const data = await cacheFile("data-");
  await patch(data, [[20_000, Buffer.alloc(300_000)]]);
  await runProgram("fallocate", ["--punch-hole", "--offset", "524288", "--length", "262144", data]);
  // Of the blob, a part is zeros and a part is gone as well, so the source is needed again.
  const compressed = await cacheFile("compressed");
  await patch(compressed, [[40_960, Buffer.alloc(65_536)]]);
  await runProgram("fallocate", ["--punch-hole", "--offset", "0", "--length", "20480", compressed]);
  const before = server.blobRequests;
  await mount();
  await checkAll();
  assert.ok(server.blobRequests > before, "what was lost was fetched again");
  const { state, errors } = await sandbox.status(mountpoint);
  assert.deepEqual([state, errors], ["ready", 0]);
  await sandbox.unmount(mountpoint);
  const verified = await sandbox.ocifs(["cache", "verify", "--cachedir", sandbox.cache]);
  assert.equal(verified.status, 0, verified.stdout + verified.stderr);
});

test("damage under a live mount: the blob's is never served, the data's is found and repaired by cache verify", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { fixture, server, sandbox, mountpoint, mount, cacheFile, checkAll } = await setUp(t);
  await mount();
  await checkAll();
  const verify = (...args: string[]) => sandbox.ocifs(["cache", "verify", ...args, "--cachedir", sandbox.cache]);
  assert.equal((await verify()).status, 0);

  await flip(await cacheFile("data-"), 1000, 500_000);
  await flip(await cacheFile("compressed"), 100_000);
  const found = await verify();
  assert.equal(found.status, 1);
  assert.match(found.stdout, /blob WRONG, 2 of \d+ spans WRONG/);
  const repaired = await verify("--repair");
  assert.equal(repaired.status, 1, repaired.stderr);
  assert.match(repaired.stderr, /they were discarded/);
  // The mount that was there all the time decodes again what was taken away, and fetches what that needs.
  const before = server.blobRequests;
  await checkAll();
  assert.ok(server.blobRequests > before, "the discarded blob was fetched again");
  const { state, errors, problem } = await sandbox.status(mountpoint);
  assert.deepEqual([state, errors, problem], ["ready", 0, null]);
  const after = await verify();
  assert.equal(after.status, 0, after.stdout + after.stderr);

  // Damage to bytes of the blob that are decoded only now: by the digest of the span, while the mount lives.
  const { spans } = fixture.index.manifest;
  assert.ok(spans.digests.length > 4);
  await sandbox.unmount(mountpoint);
  for (const prefix of ["data-", "spans-"]) await runProgram("rm", [await cacheFile(prefix)]);
  await mount();
  for (let at = 10_000; at < fixture.gz.length; at += 100_000) await flip(await cacheFile("compressed"), at);
  await checkAll();
  await sandbox.unmount(mountpoint);
});
