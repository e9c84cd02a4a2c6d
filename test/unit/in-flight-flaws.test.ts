/**
 * The flaws found in an existing implementation of streaming downloads, each as a test that it is not one of this one.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { getEventListeners } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightStream, type InFlightStreamOptions } from "../../src/layer/in-flight-stream.js";
import { InFlightStreams } from "../../src/layer/in-flight-streams.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";
import { tempDirectory } from "../support/temp.js";

const chunkBytes = 64 << 10;

async function setUp(t: TestContext, options: InFlightStreamOptions & { sizeBytes?: number } = {}) {
  const blob = new MemoryBlob(randomBytes(options.sizeBytes ?? 10 * chunkBytes));
  const path = join(await tempDirectory(t), "compressed");
  const file = await CompressedFile.open(path, blob.sizeBytes);
  const stream = InFlightStream.open({ source: blob, file, chunkBytes, ...options });
  t.after(async () => {
    await stream[Symbol.asyncDispose]();
    await file[Symbol.asyncDispose]();
  });
  return { blob, path, file, stream };
}

function stopBefore(blob: MemoryBlob, position: number) {
  const gate = deferred();
  const stuck = deferred();
  blob.beforeChunk = async (at) => {
    if (at < position) return;
    stuck.resolve();
    await gate.promise;
  };
  return { gate, stuck };
}

test("flaw 1: a read gives exactly what was asked for, never a chunk cut to fit or a larger count", async (t) => {
  const { blob, stream } = await setUp(t);
  for (const [offset, length] of [
    [0, 1],
    [chunkBytes - 1, 2],
    [chunkBytes + 5, 3 * chunkBytes],
    [blob.sizeBytes - 1, 1],
    [17, 0],
  ] as const) {
    const got = await stream.read(offset, length);
    assert.equal(got.length, length);
    assert.deepEqual(got, Buffer.from(blob.bytes.subarray(offset, offset + length)));
  }
  const lengths: number[] = [];
  for await (const chunk of stream.follow({ from: 100 })) lengths.push(chunk.length);
  assert.equal(
    lengths.reduce((a, b) => a + b),
    blob.sizeBytes - 100,
  );
});

test("flaw 2: an error of the source is told to everyone, and what was written of a block spoils no retry", async (t) => {
  const { blob, stream, file } = await setUp(t);
  blob.chunkBytes = 1000;
  const position = 3 * chunkBytes + 2000;
  blob.beforeChunk = async (at) => {
    if (at >= position) throw new OcifsError("network", "connection reset");
  };
  const followers = Array.from({ length: 20 }, () => rejectsWith(collect(stream.follow()), "network"));
  await Promise.all([
    ...followers,
    rejectsWith(stream.finish(), "network"),
    rejectsWith(stream.read(position, 1), "network"),
  ]);
  assert.equal(file.presentBytes() % 4096, 0, "whole blocks only");
  blob.beforeChunk = async () => undefined;
  assert.deepEqual(await collect(stream.follow()), Buffer.from(blob.bytes));
});

test("flaw 3: a reader that leaves while bytes come for it breaks nothing", async (t) => {
  const { blob, stream } = await setUp(t);
  const { gate, stuck } = stopBefore(blob, 4 * chunkBytes);
  const stays = collect(stream.follow());
  const aborts = Array.from({ length: 30 }, () => new AbortController());
  const leaving = aborts.map(({ signal }) => rejectsWith(collect(stream.follow({ signal })), "aborted"));
  await stuck.promise;
  gate.resolve();
  for (const abort of aborts) {
    abort.abort();
    await Promise.resolve();
  }
  await Promise.all(leaving);
  assert.deepEqual(await stays, Buffer.from(blob.bytes));
});

test("flaw 4: neither the slowest reader nor one that never reads again holds the download up", async (t) => {
  const { blob, stream } = await setUp(t);
  const slow = stream.follow();
  const departed = stream.follow();
  await Promise.all([slow.next(), departed.next()]);
  await stream.finish();
  assert.equal(blob.delivered, blob.sizeBytes);
  assert.equal((await collect(slow)).length, blob.sizeBytes - chunkBytes);
});

test("flaw 5: joining does not wait for the network", async (t) => {
  const { blob, stream } = await setUp(t);
  const { gate, stuck } = stopBefore(blob, 2 * chunkBytes);
  const first = collect(stream.follow());
  await stuck.promise;
  const joined = stream.follow();
  const { value } = await joined.next();
  assert.deepEqual(value, Buffer.from(blob.bytes.subarray(0, chunkBytes)));
  assert.equal(stream.frontierBytes, 2 * chunkBytes);
  gate.resolve();
  await first;
});

test("flaw 6: starting many times at once is one download; its state is only read from outside", async (t) => {
  const { blob, stream } = await setUp(t);
  await Promise.all([
    stream.finish(),
    collect(stream.follow()),
    stream.finish(),
    stream.read(5, 5),
    collect(stream.follow()),
  ]);
  assert.deepEqual(blob.requests, [{ offset: 0, length: blob.sizeBytes }]);
  assert.throws(() => Object.assign(stream, { frontierBytes: 1 }), TypeError);
  assert.throws(() => Object.assign(stream, { complete: false }), TypeError);
});

for (const chunks of [1, 2, 10]) {
  test(`flaw 7: a blob of exactly ${chunks} chunks ends, also for a late joiner`, async (t) => {
    const { blob, stream } = await setUp(t, { sizeBytes: chunks * chunkBytes });
    assert.equal((await collect(stream.follow())).length, blob.sizeBytes);
    assert.equal(stream.frontierBytes, blob.sizeBytes);
    assert.equal((await collect(stream.follow())).length, blob.sizeBytes);
    assert.equal((await collect(stream.follow({ from: blob.sizeBytes }))).length, 0);
    await stream.finish();
  });
}

test("flaw 8: bytes of an earlier use of the file are never served as the blob", async (t) => {
  const path = join(await tempDirectory(t), "compressed");
  const blob = new MemoryBlob(randomBytes(4 * chunkBytes));
  await writeFile(path, randomBytes(5 * chunkBytes));
  await rejectsWith(CompressedFile.open(path, blob.sizeBytes), "mismatch");
  await writeFile(path, randomBytes(4 * chunkBytes));
  await using file = await CompressedFile.open(path, blob.sizeBytes);
  await using stream = InFlightStream.open({ source: blob, file, chunkBytes });
  await rejectsWith(collect(stream.follow()), "mismatch");
  assert.deepEqual(await collect(stream.follow()), Buffer.from(blob.bytes), "the next try fetches all of it");
});

test("flaw 9: a thousand readers cost one request, and leave nothing behind", async (t) => {
  const { blob, stream } = await setUp(t);
  const { gate, stuck } = stopBefore(blob, 3 * chunkBytes);
  const abort = new AbortController();
  const readers = Array.from({ length: 1000 }, (_, index) => stream.follow({ from: index, signal: abort.signal }));
  const firsts = readers.map((reader) => reader.next());
  await stuck.promise;
  await Promise.all(firsts);
  await Promise.all(readers.map((reader) => reader.return()));
  assert.deepEqual(getEventListeners(abort.signal, "abort"), []);
  const leaving = rejectsWith(collect(stream.follow({ from: 5 * chunkBytes, signal: abort.signal })), "aborted");
  abort.abort();
  await leaving;
  gate.resolve();
  await stream.finish();
  assert.equal(blob.requests.length, 1);
});

test("flaw 10: the size is known before the first byte, and an error before it is no empty answer", async (t) => {
  const { blob, stream } = await setUp(t);
  blob.beforeChunk = async () => {
    throw new OcifsError("denied", "403");
  };
  assert.equal(stream.sizeBytes, blob.sizeBytes);
  await rejectsWith(stream.follow().next(), "denied");
  await rejectsWith(stream.read(0, 1), "denied");
});

test("flaw 11: a reader that started the download does not end it by leaving", async (t) => {
  const { blob, stream } = await setUp(t);
  const { gate, stuck } = stopBefore(blob, chunkBytes);
  const abort = new AbortController();
  const first = rejectsWith(collect(stream.follow({ signal: abort.signal })), "aborted");
  await stuck.promise;
  abort.abort();
  await first;
  gate.resolve();
  await stream.finish();
  assert.deepEqual(blob.requests, [{ offset: 0, length: blob.sizeBytes }]);
});

test("flaw 12: streams are closed with their last user, resume, and complete only what is verified", async (t) => {
  const { blob, path } = await setUp(t);
  const streams = new InFlightStreams();
  let closed = 0;
  const open = async () => {
    const file = await CompressedFile.open(path, blob.sizeBytes);
    const stream = InFlightStream.open({ source: blob, file, chunkBytes });
    return {
      stream,
      [Symbol.asyncDispose]: async () => {
        await stream[Symbol.asyncDispose]();
        await file[Symbol.asyncDispose]();
        closed += 1;
      },
    };
  };
  const key = { scope: "a", digest: blob.digest };
  const { gate, stuck } = stopBefore(blob, 4 * chunkBytes);
  const use = await streams.use(key, open);
  const broken = rejectsWith(collect(use.stream.follow()), "aborted");
  await stuck.promise;
  const leaving = use[Symbol.asyncDispose]();
  gate.resolve();
  await Promise.all([leaving, broken]);
  assert.deepEqual([streams.size, closed], [0, 1]);
  assert.equal(use.stream.complete, false);

  blob.requests.length = 0;
  await using again = await streams.use(key, open);
  assert.deepEqual(await again.stream.read(blob.sizeBytes - 5, 5), Buffer.from(blob.bytes.subarray(-5)));
  assert.deepEqual(await collect(again.stream.follow()), Buffer.from(blob.bytes));
  const fetched = blob.requests.reduce((sum, request) => sum + request.length, 0);
  assert.equal(fetched, 6 * chunkBytes, "each byte once, over both uses");
});

test("flaw 13: whoever may read one repository does not join the download of another's", async (t) => {
  const { blob } = await setUp(t);
  const mine = new MemoryBlob(blob.bytes);
  const streams = new InFlightStreams();
  const open = (source: MemoryBlob) => async () => {
    const file = CompressedFile.openInMemory(source.sizeBytes);
    const stream = InFlightStream.open({ source, file });
    return {
      stream,
      [Symbol.asyncDispose]: async () => {
        await stream[Symbol.asyncDispose]();
        await file[Symbol.asyncDispose]();
      },
    };
  };
  const { gate, stuck } = stopBefore(blob, 2 * chunkBytes);
  await using theirs = await streams.use({ scope: "registry/a", digest: blob.digest }, open(blob));
  const reading = collect(theirs.stream.follow());
  await stuck.promise;
  mine.beforeChunk = async () => {
    throw new OcifsError("denied", "403");
  };
  await using refused = await streams.use({ scope: "registry/b", digest: blob.digest }, open(mine));
  assert.notEqual(refused.stream, theirs.stream);
  await rejectsWith(refused.stream.read(0, 1), "denied");
  gate.resolve();
  await reading;
});
