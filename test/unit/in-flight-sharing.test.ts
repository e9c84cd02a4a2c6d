/** A stream, demand reads of a layer and other processes at one cache file: nothing is fetched twice, nobody waits in vain. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { fetchSizes } from "../../src/layer/fetch-sizes.js";
import { InFlightStream } from "../../src/layer/in-flight-stream.js";
import { RangeFetcher } from "../../src/layer/range-fetcher.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";
import { tempDirectory } from "../support/temp.js";

const MIB = 1 << 20;
const { lockBytes } = fetchSizes;

async function setUp(t: TestContext, sizeBytes = 24 * MIB) {
  const blob = new MemoryBlob(randomBytes(sizeBytes));
  blob.chunkBytes = 256 << 10;
  const path = join(await tempDirectory(t), "compressed");
  const file = await CompressedFile.open(path, sizeBytes);
  const other = await CompressedFile.open(path, sizeBytes);
  const reported = deferred();
  const fetcher = new RangeFetcher(blob, file, { onDegraded: () => undefined, onComplete: reported.resolve });
  const stream = InFlightStream.over(fetcher);
  t.after(async () => {
    await stream[Symbol.asyncDispose]();
    await fetcher[Symbol.asyncDispose]();
    await file[Symbol.asyncDispose]();
    await other[Symbol.asyncDispose]();
  });
  return { blob, path, file, other, fetcher, stream, reported: reported.promise };
}

/** Stops what is delivered of [begin, end) until the gate opens. */
function stopWithin(blob: MemoryBlob, begin: number, end = blob.sizeBytes) {
  const gate = deferred();
  const stuck = deferred();
  blob.beforeChunk = async (at) => {
    if (at < begin || at >= end) return;
    stuck.resolve();
    await gate.promise;
  };
  return { gate, stuck };
}

test("demand far ahead of the stream gets a request of its own, and the stream ends where that begins", async (t) => {
  const { blob, fetcher, stream, reported } = await setUp(t);
  const { gate, stuck } = stopWithin(blob, MIB, 15 * MIB);
  const finished = stream.finish();
  await stuck.promise;
  const lease = await fetcher.need({ begin: 16 * MIB + 5, end: 17 * MIB }, { growTo: 18 * MIB });
  const got = Buffer.alloc(MIB - 5);
  readSync(lease.fd, got, 0, got.length, 16 * MIB + 5);
  assert.ok(got.equals(blob.bytes.subarray(16 * MIB + 5, 17 * MIB)));
  lease.release();
  gate.resolve();
  await finished;
  assert.equal(blob.delivered, blob.sizeBytes);
  assert.deepEqual(blob.requests, [
    { offset: 0, length: 24 * MIB },
    { offset: 16 * MIB, length: 2 * MIB },
    { offset: 18 * MIB, length: 6 * MIB },
  ]);
  // The bytes can be read a moment before their writer has heard that they are written.
  await reported;
});

test("demand close behind the stream's frontier shares its request", async (t) => {
  const { blob, fetcher, stream } = await setUp(t);
  const { gate, stuck } = stopWithin(blob, MIB, 2 * MIB);
  const finished = stream.finish();
  await stuck.promise;
  const near = fetcher.need({ begin: 3 * MIB, end: 4 * MIB });
  gate.resolve();
  (await near).release();
  await finished;
  assert.equal(blob.requests.length, 1);
});

test("another process is locked out of what comes next only", async (t) => {
  const { blob, other, stream } = await setUp(t);
  const { gate, stuck } = stopWithin(blob, MIB);
  const finished = stream.finish();
  await stuck.promise;
  const far = { begin: 2 * lockBytes, end: blob.sizeBytes };
  assert.equal(other.tryLock({ begin: MIB, end: 2 * MIB }), false);
  assert.equal(other.tryLock(far), true);
  other.unlock(far);
  gate.resolve();
  await finished;
  assert.equal(blob.requests.length, 1);
});

test("what another process fetched meanwhile is not fetched again", async (t) => {
  const { blob, other, stream } = await setUp(t);
  const { gate, stuck } = stopWithin(blob, MIB, 2 * MIB);
  const finished = stream.finish();
  await stuck.promise;
  const [begin, end] = [10 * MIB, 20 * MIB];
  await other.writer({ begin, end }).append(blob.bytes.subarray(begin, end));
  gate.resolve();
  await finished;
  assert.equal(blob.delivered, 14 * MIB);
});

test("where another process is at work the stream stops, and follows it", async (t) => {
  const { blob, other, stream } = await setUp(t);
  const range = { begin: 10 * MIB, end: 20 * MIB };
  assert.equal(other.tryLock(range), true);
  const reached = deferred();
  const fetchRange = blob.fetchRange.bind(blob);
  blob.fetchRange = async function* (...args) {
    try {
      yield* fetchRange(...args);
    } finally {
      reached.resolve();
    }
  };
  const finished = stream.finish();
  await reached.promise;
  await other.writer(range).append(blob.bytes.subarray(range.begin, range.end));
  other.unlock(range);
  await finished;
  assert.ok(blob.delivered <= 14 * MIB + 2 * MIB, `${blob.delivered} bytes were fetched`);
  assert.equal(stream.complete, true);
});

test("bytes that a layer discards as damaged are fetched and hashed again", async (t) => {
  const { blob, fetcher, stream } = await setUp(t, 4 * MIB);
  const { gate, stuck } = stopWithin(blob, 2 * MIB);
  const finished = stream.finish();
  await stuck.promise;
  await fetcher.discard({ begin: MIB, end: MIB + 4096 });
  gate.resolve();
  await finished;
  assert.equal(blob.delivered, 4 * MIB + 4096);
  assert.ok(fetcher.complete);
});

test("bytes that another process evicts behind the stream keep it from calling itself complete", async (t) => {
  const { blob, other, stream } = await setUp(t, 4 * MIB);
  const { gate, stuck } = stopWithin(blob, 2 * MIB);
  const follower = collect(stream.follow());
  const rejected = rejectsWith(follower, "busy");
  await stuck.promise;
  other.discard({ begin: 0, end: MIB });
  gate.resolve();
  await rejected;
  assert.equal(stream.complete, false);
  assert.deepEqual(await collect(stream.follow()), Buffer.from(blob.bytes));
  assert.equal(blob.delivered, 5 * MIB);
});

test("bytes that are discarded between their arrival and their reading are fetched again, not read as zeros", async (t) => {
  const { blob, other, fetcher, stream } = await setUp(t, MIB);
  const need = fetcher.need.bind(fetcher);
  let evictions = 2;
  fetcher.need = async (...args) => {
    const lease = await need(...args);
    if (evictions > 0) other.discard({ begin: 0, end: MIB });
    evictions -= 1;
    return lease;
  };
  assert.deepEqual(await stream.read(10, 100), Buffer.from(blob.bytes.subarray(10, 110)));
  assert.equal(evictions, -1);
});

test("bytes that are discarded every time are an error, not a hang", async (t) => {
  const { other, fetcher, stream } = await setUp(t, MIB);
  const need = fetcher.need.bind(fetcher);
  fetcher.need = async (...args) => {
    const lease = await need(...args);
    other.discard({ begin: 0, end: MIB });
    return lease;
  };
  await rejectsWith(stream.read(10, 100), "busy");
});

test("what is discarded after completion is fetched and verified again before anyone is told it is complete", async (t) => {
  const { blob, other, stream } = await setUp(t, 4 * MIB);
  await stream.finish();
  other.discard({ begin: MIB, end: 2 * MIB });
  const right = Buffer.from(blob.bytes);
  blob.bytes.fill(0, MIB, MIB + 10);
  await rejectsWith(collect(stream.follow()), "mismatch");
  assert.equal(stream.complete, false);
  blob.bytes.set(right);
  assert.deepEqual(await collect(stream.follow()), right);
});

test("a full disk wakes everyone; when there is room again the rest is fetched", async (t) => {
  const { blob, file } = await setUp(t, 4 * MIB);
  let full = true;
  const limited: CompressedFile = Object.create(file, {
    writer: {
      value: (range: { begin: number; end: number }) => {
        const writer = file.writer(range);
        return {
          get frontier() {
            return writer.frontier;
          },
          append: async (chunk: Uint8Array) => {
            if (full && writer.frontier >= 2 * MIB) throw new OcifsError("no-space", "no space left on device");
            await writer.append(chunk);
          },
        };
      },
    },
  });
  await using stream = InFlightStream.open({ source: blob, file: limited });
  const waiting = [stream.finish(), collect(stream.follow()), collect(stream.follow({ from: 3 * MIB }))];
  await Promise.all(waiting.map((promise) => rejectsWith(promise, "no-space")));
  assert.equal(stream.frontierBytes, 2 * MIB);
  assert.deepEqual(
    await stream.read(3 * MIB, 100),
    Buffer.from(blob.bytes.subarray(3 * MIB, 3 * MIB + 100)),
    "reads go on without the disk",
  );
  full = false;
  blob.requests.length = 0;
  assert.deepEqual(await collect(stream.follow()), Buffer.from(blob.bytes));
  assert.deepEqual(blob.requests, [{ offset: 2 * MIB, length: 2 * MIB }]);
});

test("a stream needs a file, of the blob's size", async () => {
  const blob = new MemoryBlob(randomBytes(10));
  const events = { onDegraded: () => undefined, onComplete: () => undefined };
  assert.throws(() => InFlightStream.over(new RangeFetcher(blob, undefined, events)), { code: "usage" });
  await using file = CompressedFile.openInMemory(11);
  assert.throws(() => InFlightStream.open({ source: blob, file }), { code: "mismatch" });
  await using right = CompressedFile.openInMemory(10);
  for (const chunkBytes of [0, -1, 1.5, Number.NaN]) {
    assert.throws(() => InFlightStream.open({ source: blob, file: right, chunkBytes }), { code: "usage" });
  }
});
