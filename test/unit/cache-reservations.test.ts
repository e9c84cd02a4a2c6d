import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { CacheDirectory, RESERVATIONS_FILE } from "../../src/cache/cache-directory.js";
import { Reservations } from "../../src/cache/reservations.js";
import { rejectsWith } from "../support/errors.js";
import { repositoryRoot } from "../support/fixtures.js";
import { tempDirectory } from "../support/temp.js";

const MIB = 1 << 20;

/** Another process that has done its reservation, and what came of it. */
async function reserveElsewhere(
  t: TestContext,
  directory: string,
  limitBytes: number,
  bytes: number,
): Promise<{ child: ChildProcessWithoutNullStreams; said: string }> {
  const program = join(repositoryRoot, "dist", "test", "support", "reserving-process.js");
  const child = spawn(process.execPath, [program, directory, String(limitBytes), String(bytes)], { stdio: "pipe" });
  t.after(() => void child.kill("SIGKILL"));
  const [chunk] = await once(child.stdout, "data");
  return { child, said: String(chunk).trim() };
}

async function openCache(t: TestContext, directory: string, limitBytes?: number): Promise<CacheDirectory> {
  const cache = await CacheDirectory.open(directory, limitBytes === undefined ? {} : { limitBytes });
  assert.equal(cache.unusable, undefined);
  t.after(() => cache[Symbol.asyncDispose]());
  return cache;
}

test("the file of reservations has the bytes that docs/FORMATS.md says", async (t) => {
  const path = join(await tempDirectory(t), "reservations");
  await using first = await Reservations.open(path, 10 * MIB);
  await using second = await Reservations.open(path, undefined);
  first.setReserved(0x12345);
  second.setReserved(4096);
  const bytes = await readFile(path);
  const want = Buffer.alloc(64 + 16 * 1024);
  want.write("OCIFSRES", 0, "latin1");
  want.writeUInt32LE(1, 8);
  want.writeUInt32LE(1024, 12);
  want.writeUInt32LE(10 * MIB, 64);
  want.writeUInt32LE(0x12345, 72);
  want.writeUInt32LE(4096, 88);
  assert.ok(bytes.equals(want));
  assert.deepEqual(await second.locked(async () => second.read()), {
    limitBytes: 10 * MIB,
    reservedBytes: 0x12345 + 4096,
  });
});

test("a slot is free when its holder has closed it, and its figures count no more", async (t) => {
  const path = join(await tempDirectory(t), "reservations");
  const first = await Reservations.open(path, 10 * MIB);
  first.setReserved(MIB);
  await using second = await Reservations.open(path, 20 * MIB);
  await first[Symbol.asyncDispose]();
  assert.deepEqual(await second.locked(async () => second.read()), { limitBytes: 20 * MIB, reservedBytes: 0 });
  const bytes = await readFile(path);
  assert.ok(bytes.subarray(64, 80).every((byte) => byte === 0));
  await using third = await Reservations.open(path, 5 * MIB);
  assert.equal((await second.locked(async () => third.read()))?.limitBytes, 5 * MIB);
});

test("a file that is none of reservations is refused, and the cache with it", async (t) => {
  const directory = await tempDirectory(t);
  const path = join(directory, RESERVATIONS_FILE);
  await writeFile(path, "something else that somebody put there, long enough to be a header of sixty-four bytes");
  await rejectsWith(Reservations.open(path, undefined), "corrupt");
  const cache = await CacheDirectory.open(directory);
  assert.match(cache.unusable ?? "usable", /not a file of reservations/);
});

test("what one process has reserved is not there for another, whichever of them has the limit", async (t) => {
  for (const [mine, theirs] of [
    [undefined, 8 * MIB],
    [8 * MIB, undefined],
    [8 * MIB, 100 * MIB],
  ]) {
    const directory = await tempDirectory(t);
    const cache = await openCache(t, directory, mine);
    const { child, said } = await reserveElsewhere(t, directory, theirs ?? 0, 5 * MIB);
    assert.equal(said, "reserved");
    assert.equal(await cache.room.reserve(4 * MIB), undefined);
    using little = await cache.room.reserve(MIB);
    assert.ok(little);
    child.stdin.end();
    await once(child, "close");
  }
});

test("a process that is killed gives back what it had reserved", async (t) => {
  const directory = await tempDirectory(t);
  const cache = await openCache(t, directory, 8 * MIB);
  const { child, said } = await reserveElsewhere(t, directory, 0, 6 * MIB);
  assert.equal(said, "reserved");
  assert.equal(await cache.room.reserve(6 * MIB), undefined);
  child.kill("SIGKILL");
  await once(child, "close");
  using room = await cache.room.reserve(6 * MIB);
  assert.ok(room);
});

test("a limit that leaves room for nothing refuses everything, and none refuses nothing", async (t) => {
  const cache = await openCache(t, await tempDirectory(t), 16 << 10);
  assert.equal(await cache.room.reserve(1), undefined);
  assert.equal(await cache.room.makeRoom(1), false);
  const free = await openCache(t, await tempDirectory(t));
  assert.equal(await free.room.makeRoom(1e12), true);
});
