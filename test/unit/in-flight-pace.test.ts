import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightStream, type InFlightStreamOptions } from "../../src/layer/in-flight-stream.js";
import { Pace } from "../../src/layer/pace.js";
import type { Clock } from "../../src/registry/clock.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { FakeClock } from "../support/fake-clock.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";
import { tempDirectory } from "../support/temp.js";

const KIB = 1024;

function setUp(t: TestContext, options: InFlightStreamOptions, sizeBytes = 4000 * KIB) {
  const blob = new MemoryBlob(randomBytes(sizeBytes));
  const priorities: (string | undefined)[] = [];
  const fetchRange = blob.fetchRange.bind(blob);
  blob.fetchRange = (offset, length, fetchOptions = {}) => {
    priorities.push(fetchOptions.priority);
    return fetchRange(offset, length, fetchOptions);
  };
  const file = CompressedFile.openInMemory(sizeBytes);
  const stream = InFlightStream.open({ source: blob, file, chunkBytes: 64 * KIB, ...options });
  t.after(async () => {
    await stream[Symbol.asyncDispose]();
    await file[Symbol.asyncDispose]();
  });
  return { blob, file, stream, priorities };
}

/** A clock on which time passes only when told, and sleepers wake only then. */
class StoppedClock implements Clock {
  readonly asleep = deferred();
  sleepers = 0;

  nowMs(): number {
    return 0;
  }

  async sleep(_ms: number, signal?: AbortSignal): Promise<void> {
    this.sleepers += 1;
    this.asleep.resolve();
    await new Promise<void>((_resolve, reject) => {
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  }

  random(): number {
    return 0;
  }
}

test("a bandwidth cap spreads the bytes over time", async (t) => {
  const clock = new FakeClock();
  const pace = new Pace({ bytesPerSecond: 1000 * KIB, clock });
  const began = clock.nowMs();
  const { stream, blob, priorities } = setUp(t, { priority: "prefetch", pace });
  await stream.finish();
  const tookMs = clock.nowMs() - began;
  assert.ok(tookMs >= 3900 && tookMs <= 4000, `${tookMs} ms for 4 s of bytes`);
  assert.ok(priorities.every((priority) => priority === "prefetch"));
  assert.equal(blob.delivered, blob.sizeBytes);
  assert.ok(
    blob.requests.every(({ length }) => length <= 1000 * KIB),
    "no more than a second's worth a request",
  );
});

test("a cap is shared by all that have the same pace", async (t) => {
  const clock = new FakeClock();
  const pace = new Pace({ bytesPerSecond: 1000 * KIB, clock });
  const began = clock.nowMs();
  const made = [1, 2, 3].map(() => setUp(t, { priority: "prefetch", pace }, 1000 * KIB));
  await Promise.all(made.map(({ stream }) => stream.finish()));
  const tookMs = clock.nowMs() - began;
  assert.ok(tookMs >= 2900, `${tookMs} ms for 3 s of bytes`);
});

test("unused bandwidth is not saved up", async () => {
  const clock = new FakeClock();
  const pace = new Pace({ bytesPerSecond: 1000, clock });
  const { signal } = new AbortController();
  await pace.spend(1000, signal);
  clock.advance(3_600_000);
  const began = clock.nowMs();
  await pace.spend(1000, signal);
  assert.ok(clock.nowMs() - began >= 900);
});

test("requests are neither tiny nor larger than a fetch range", () => {
  assert.equal(new Pace().requestBytes, 8 << 20);
  assert.equal(new Pace({ bytesPerSecond: 1 }).requestBytes, 64 * KIB);
  assert.equal(new Pace({ bytesPerSecond: 1e12 }).requestBytes, 8 << 20);
});

test("a hold ends the request that goes on, gives its lock back, and the rest is asked for afterwards", async (t) => {
  const pace = new Pace();
  const blob = new MemoryBlob(randomBytes(4000 * KIB));
  const path = join(await tempDirectory(t), "compressed");
  await using file = await CompressedFile.open(path, blob.sizeBytes);
  await using other = await CompressedFile.open(path, blob.sizeBytes);
  await using stream = InFlightStream.open({ source: blob, file, priority: "prefetch", pace });
  const holds: Disposable[] = [];
  blob.beforeChunk = async (at) => {
    if (at === 640 * KIB && holds.length === 0) holds.push(pace.hold(), pace.hold());
  };
  const ended = deferred();
  const fetchRange = blob.fetchRange.bind(blob);
  blob.fetchRange = async function* (...args) {
    try {
      yield* fetchRange(...args);
    } finally {
      ended.resolve();
    }
  };
  const finished = stream.finish();
  await ended.promise;
  await setImmediate();
  assert.equal(stream.frontierBytes, 656 * KIB);
  const everything = { begin: 0, end: blob.sizeBytes };
  assert.equal(other.tryLock(everything), true);
  other.unlock(everything);
  holds[0]?.[Symbol.dispose]();
  holds[0]?.[Symbol.dispose]();
  await setImmediate();
  assert.equal(pace.held, true, "a hold that is let go twice counts once");
  assert.equal(blob.requests.length, 1);
  holds[1]?.[Symbol.dispose]();
  await finished;
  assert.deepEqual(blob.requests[1], { offset: 656 * KIB, length: 4000 * KIB - 656 * KIB });
});

test("reads are served while it is held; a follower to the end is not held either", async (t) => {
  const pace = new Pace();
  using _hold = pace.hold();
  const { stream, blob, priorities } = setUp(t, { priority: "prefetch", pace });
  const finished = stream.finish();
  assert.deepEqual(await stream.read(100, 100), Buffer.from(blob.bytes.subarray(100, 200)));
  assert.deepEqual(priorities, ["demand"]);
  assert.deepEqual(await collect(stream.follow()), Buffer.from(blob.bytes));
  await finished;
  assert.ok(priorities.every((priority) => priority === "demand"));
});

test("a read does not wait for the pace of a prefetch that has its bytes", async (t) => {
  const clock = new StoppedClock();
  const pace = new Pace({ bytesPerSecond: 1000 * KIB, clock });
  const { stream, blob } = setUp(t, { priority: "prefetch", pace });
  const finished = stream.finish();
  await clock.asleep.promise;
  const [near, far] = await Promise.all([stream.read(200 * KIB, 10), stream.read(3900 * KIB, 10)]);
  assert.deepEqual(near, Buffer.from(blob.bytes.subarray(200 * KIB, 200 * KIB + 10)));
  assert.deepEqual(far, Buffer.from(blob.bytes.subarray(3900 * KIB, 3900 * KIB + 10)));
  assert.equal(stream.complete, false);
  const rejected = rejectsWith(finished, "aborted");
  await stream[Symbol.asyncDispose]();
  await rejected;
});

test("closing ends a stream that is held, or that waits for its pace", async (t) => {
  const held = new Pace();
  using _hold = held.hold();
  const slow = new Pace({ bytesPerSecond: 1, clock: new StoppedClock() });
  for (const pace of [held, slow]) {
    const { stream } = setUp(t, { priority: "prefetch", pace });
    const rejected = rejectsWith(stream.finish(), "aborted");
    await stream[Symbol.asyncDispose]();
    await rejected;
  }
});

test("a source without ranges is held in the middle of its one pass", async (t) => {
  const pace = new Pace();
  const { stream, blob } = setUp(t, { priority: "prefetch", pace });
  blob.rangesSupported = false;
  const hold = deferred();
  let held: Disposable | undefined;
  blob.beforeChunk = async (at) => {
    if (at !== 640 * KIB) return;
    held = pace.hold();
    hold.resolve();
  };
  const finished = stream.finish();
  await hold.promise;
  held?.[Symbol.dispose]();
  await finished;
  assert.equal(blob.requests.length, 1);
});
