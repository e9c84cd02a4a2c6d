import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { fetchSizes } from "../../src/layer/fetch-sizes.js";
import { joinClose, subtract } from "../../src/layer/range-arithmetic.js";
import { type Lease, RangeFetcher } from "../../src/layer/range-fetcher.js";
import { rejectsWith } from "../support/errors.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";
import { tempDirectory } from "../support/temp.js";

const KIB = 1024;

async function setUp(t: TestContext, options: { sizeBytes?: number; disk?: boolean } = {}) {
  const blob = new MemoryBlob(randomBytes(options.sizeBytes ?? 1000 * KIB + 123));
  const directory = await tempDirectory(t);
  const path = join(directory, "compressed");
  const file = options.disk === false ? undefined : await CompressedFile.open(path, blob.sizeBytes);
  const events: string[] = [];
  const fetcher = new RangeFetcher(blob, file, {
    onDegraded: (reason) => events.push(`degraded: ${reason}`),
    onComplete: () => events.push("complete"),
  });
  t.after(async () => {
    await fetcher[Symbol.asyncDispose]();
    await file?.[Symbol.asyncDispose]();
  });
  return { blob, path, file, fetcher, events };
}

function check(blob: MemoryBlob, lease: Lease, begin: number, end: number): void {
  const got = Buffer.alloc(end - begin);
  assert.equal(readSync(lease.fd, got, 0, got.length, begin), got.length);
  assert.ok(got.equals(Buffer.from(blob.bytes.subarray(begin, end))), `bytes [${begin}, ${end})`);
  lease.release();
}

test("a range is fetched once, on block borders, and read from the file afterwards", async (t) => {
  const { blob, fetcher } = await setUp(t);
  check(blob, await fetcher.need({ begin: 5000, end: 9000 }), 5000, 9000);
  assert.deepEqual(blob.requests, [{ offset: 4096, length: 8192 }]);
  check(blob, await fetcher.need({ begin: 4096, end: 12288 }), 4096, 12288);
  assert.equal(blob.requests.length, 1);
});

test("the blob's last block is shorter than a block", async (t) => {
  const { blob, fetcher } = await setUp(t);
  const { sizeBytes } = blob;
  check(blob, await fetcher.need({ begin: sizeBytes - 10, end: sizeBytes }), sizeBytes - 10, sizeBytes);
});

test("many who want overlapping ranges at once share the transfers", async (t) => {
  const { blob, fetcher } = await setUp(t);
  const ranges = Array.from({ length: 40 }, (_, i) => ({ begin: i * 7000, end: i * 7000 + 30_000 }));
  const leases = await Promise.all(ranges.map((range) => fetcher.need(range)));
  for (const [i, lease] of leases.entries()) check(blob, lease, ranges[i]?.begin ?? 0, ranges[i]?.end ?? 0);
  const fetched = blob.requests.reduce((sum, r) => sum + r.length, 0);
  assert.equal(fetched, Math.ceil((39 * 7000 + 30_000) / 4096) * 4096);
});

test("a reader gets its bytes before the transfer ends", async (t) => {
  const { blob, fetcher } = await setUp(t);
  const gate = deferred();
  blob.beforeChunk = async (position) => {
    if (position >= 256 * KIB) await gate.promise;
  };
  const whole = fetcher.need({ begin: 0, end: 512 * KIB });
  check(blob, await fetcher.need({ begin: 0, end: 100 * KIB }), 0, 100 * KIB);
  gate.resolve();
  check(blob, await whole, 0, 512 * KIB);
  assert.equal(blob.requests.length, 1);
});

test("what is fetched for nobody comes as prefetch, in the parts that are missing, and is shared", async (t) => {
  const { blob, fetcher } = await setUp(t);
  (await fetcher.need({ begin: 300 * KIB, end: 400 * KIB })).release();
  const priorities: (string | undefined)[] = [];
  const gate = deferred();
  blob.beforeChunk = async (position, options) => {
    priorities.push(options.priority);
    options.onStart?.();
    if (position >= 450 * KIB) await gate.promise;
  };
  const ahead = fetcher.ahead({ begin: 200 * KIB, end: 500 * KIB }, new AbortController().signal);
  check(blob, await fetcher.need({ begin: 250 * KIB, end: 410 * KIB }), 250 * KIB, 410 * KIB);
  gate.resolve();
  await ahead;
  assert.deepEqual(blob.requests.slice(1), [
    { offset: 200 * KIB, length: 100 * KIB },
    { offset: 400 * KIB, length: 100 * KIB },
  ]);
  assert.ok(priorities.every((priority) => priority === "prefetch"));
});

test("what is fetched for nobody stops when it is given up, but for what somebody waits for", async (t) => {
  const { blob, fetcher } = await setUp(t);
  const gate = deferred();
  blob.beforeChunk = async (position, options) => {
    options.onStart?.();
    if (position >= 64 * KIB) await gate.promise;
  };
  const giveUp = new AbortController();
  const ahead = fetcher.ahead({ begin: 0, end: 900 * KIB }, giveUp.signal);
  const waits = fetcher.need({ begin: 100 * KIB, end: 200 * KIB });
  giveUp.abort();
  gate.resolve();
  check(blob, await waits, 100 * KIB, 200 * KIB);
  await ahead;
  assert.equal(blob.requests.length, 1);
  assert.ok(blob.delivered <= 200 * KIB + blob.chunkBytes, `${blob.delivered} bytes`);
  await fetcher.ahead({ begin: 0, end: 900 * KIB }, giveUp.signal);
  assert.equal(blob.requests.length, 1);
});

test("who shares what was fetched for nobody and fails asks for himself, as one who has waited", async (t) => {
  const { blob, fetcher } = await setUp(t);
  const waits: (number | undefined)[] = [];
  blob.beforeChunk = async (position, options) => {
    options.onStart?.();
    waits[blob.requests.length - 1] ??= options.waitingSinceMs;
    if (blob.requests.length === 1 && position >= 64 * KIB) throw new OcifsError("network", "connection reset");
  };
  const ahead = fetcher.ahead({ begin: 0, end: 900 * KIB }, new AbortController().signal);
  const began = performance.now();
  const lease = fetcher.need({ begin: 50 * KIB, end: 200 * KIB });
  const joined = performance.now();
  check(blob, await lease, 50 * KIB, 200 * KIB);
  await ahead;
  assert.equal(blob.requests.length, 2);
  const [ofNobody, ofReader = Number.NaN] = waits;
  assert.equal(ofNobody, undefined);
  assert.ok(ofReader >= began && ofReader <= joined, `${began} <= ${ofReader} <= ${joined}`);
});

test("without a disk, nothing is fetched for nobody", async (t) => {
  const { blob, fetcher } = await setUp(t, { disk: false });
  await fetcher.ahead({ begin: 0, end: 900 * KIB }, new AbortController().signal);
  assert.equal(blob.requests.length, 0);
});

test("growth goes as far as nothing is there yet", async (t) => {
  const { blob, fetcher } = await setUp(t);
  (await fetcher.need({ begin: 400 * KIB, end: 404 * KIB })).release();
  (await fetcher.need({ begin: 0, end: 4096 }, { growTo: 900 * KIB })).release();
  check(blob, await fetcher.need({ begin: 0, end: 400 * KIB }), 0, 400 * KIB);
  assert.deepEqual(blob.requests, [
    { offset: 400 * KIB, length: 4 * KIB },
    { offset: 0, length: 400 * KIB },
  ]);
});

test("small holes are fetched together with what lies between them", async (t) => {
  const { blob, fetcher } = await setUp(t);
  (await fetcher.need({ begin: 40 * KIB, end: 60 * KIB })).release();
  check(blob, await fetcher.need({ begin: 0, end: 100 * KIB }), 0, 100 * KIB);
  assert.deepEqual(blob.requests.at(-1), { offset: 0, length: 100 * KIB });
});

test("a cancelled reader leaves at once; the transfer goes on for the others", async (t) => {
  const { blob, fetcher } = await setUp(t);
  const gate = deferred();
  const started = deferred();
  blob.beforeChunk = async () => {
    started.resolve();
    await gate.promise;
  };
  const abort = new AbortController();
  const left = fetcher.need({ begin: 0, end: 8192 }, { signal: abort.signal });
  const stays = fetcher.need({ begin: 0, end: 8192 });
  await started.promise;
  abort.abort();
  await rejectsWith(left, "aborted");
  gate.resolve();
  check(blob, await stays, 0, 8192);
  assert.equal(blob.requests.length, 1);
});

test("a failure reaches everyone who waits, keeps what came before, and the next try fetches only the rest", async (t) => {
  const { blob, fetcher } = await setUp(t);
  let fail = true;
  blob.beforeChunk = async (position) => {
    if (fail && position >= 64 * KIB) throw new OcifsError("network", "connection reset");
  };
  const waiting = [fetcher.need({ begin: 0, end: 200 * KIB }), fetcher.need({ begin: 100 * KIB, end: 200 * KIB })];
  for (const one of waiting) await rejectsWith(one, "network");
  fail = false;
  check(blob, await fetcher.need({ begin: 0, end: 200 * KIB }), 0, 200 * KIB);
  assert.deepEqual(blob.requests.at(-1), { offset: 64 * KIB, length: 136 * KIB });
});

test("an answer that ends early is an error, and no partial block is taken for data", async (t) => {
  const { blob, file, fetcher } = await setUp(t);
  blob.chunkBytes = 1000;
  const fetchRange = blob.fetchRange.bind(blob);
  blob.fetchRange = async function* (offset, length, options) {
    let left = 5500;
    for await (const chunk of fetchRange(offset, length, options)) {
      if (left <= 0) return;
      yield chunk.subarray(0, left);
      left -= chunk.length;
    }
  };
  await rejectsWith(fetcher.need({ begin: 0, end: 64 * KIB }), "network");
  assert.deepEqual(file?.missing({ begin: 0, end: 64 * KIB }), [{ begin: 4096, end: 64 * KIB }]);
});

test("more bytes than asked for are refused", async (t) => {
  const { blob, fetcher } = await setUp(t);
  const fetchRange = blob.fetchRange.bind(blob);
  blob.fetchRange = (offset, length, options) => fetchRange(offset, length + 5000, options);
  await rejectsWith(fetcher.need({ begin: 0, end: 4096 }), "mismatch");
});

test("without a disk, ranges are kept in memory up to a limit", async (t) => {
  const { blob, fetcher } = await setUp(t, { sizeBytes: 3 * fetchSizes.memoryBytes, disk: false });
  blob.chunkBytes = 1 << 20;
  const step = 4 << 20;
  for (let at = 0; at < blob.sizeBytes; at += step) {
    check(blob, await fetcher.need({ begin: at, end: at + step }), at, at + step);
  }
  check(
    blob,
    await fetcher.need({ begin: blob.sizeBytes - step, end: blob.sizeBytes }),
    blob.sizeBytes - step,
    blob.sizeBytes,
  );
  const before = blob.requests.length;
  check(blob, await fetcher.need({ begin: 0, end: step }), 0, step);
  assert.equal(blob.requests.length, before + 1, "the oldest range was given up");
});

test("the last byte of the blob is reported once", async (t) => {
  const { blob, fetcher, events } = await setUp(t);
  (await fetcher.need({ begin: 0, end: 500 * KIB })).release();
  assert.deepEqual(events, []);
  (await fetcher.need({ begin: 0, end: blob.sizeBytes })).release();
  (await fetcher.need({ begin: 0, end: blob.sizeBytes })).release();
  assert.deepEqual(events, ["complete"]);
  assert.equal(fetcher.complete, true);
});

test("a range that another open file has locked is waited for and taken from it", async (t) => {
  const { blob, path, fetcher } = await setUp(t);
  await using other = await CompressedFile.open(path, blob.sizeBytes);
  const range = { begin: 0, end: 64 * KIB };
  assert.equal(other.tryLock(range), true);
  const waiting = fetcher.need(range);
  const writer = other.writer(range);
  await writer.append(blob.bytes.subarray(0, 64 * KIB));
  check(blob, await waiting, 0, 64 * KIB);
  other.unlock(range);
  assert.deepEqual(blob.requests, [], "nothing was fetched a second time");
});

test("a lock whose holder left without finishing passes on, and only the rest is fetched", async (t) => {
  const { blob, path, fetcher } = await setUp(t);
  const other = await CompressedFile.open(path, blob.sizeBytes);
  const range = { begin: 0, end: 64 * KIB };
  assert.equal(other.tryLock(range), true);
  const waiting = fetcher.need(range);
  await other.writer(range).append(blob.bytes.subarray(0, 20 * KIB));
  await other[Symbol.asyncDispose]();
  check(blob, await waiting, 0, 64 * KIB);
  assert.deepEqual(blob.requests, [{ offset: 20 * KIB, length: 44 * KIB }]);
});

test("a source without ranges is read in one pass, whatever is asked for first", async (t) => {
  const { blob, fetcher } = await setUp(t);
  blob.rangesSupported = false;
  const late = fetcher.need({ begin: 600 * KIB, end: 700 * KIB });
  const early = fetcher.need({ begin: 0, end: 8192 });
  check(blob, await early, 0, 8192);
  check(blob, await late, 600 * KIB, 700 * KIB);
  check(blob, await fetcher.need({ begin: 0, end: blob.sizeBytes }), 0, blob.sizeBytes);
  assert.deepEqual(blob.requests, [{ offset: 0, length: blob.sizeBytes }]);
});

test("closing fails those who wait", async (t) => {
  const { blob, fetcher } = await setUp(t);
  blob.beforeChunk = (_, { signal }) =>
    new Promise((_resolve, reject) =>
      signal?.addEventListener("abort", () => reject(new OcifsError("aborted", "transfer: cancelled"))),
    );
  const waiting = fetcher.need({ begin: 0, end: 4096 });
  const rejected = rejectsWith(waiting, "aborted");
  await fetcher[Symbol.asyncDispose]();
  await rejected;
  await rejectsWith(fetcher.need({ begin: 0, end: 4096 }), "aborted");
});

test("range arithmetic", () => {
  const r = (begin: number, end: number) => ({ begin, end });
  assert.deepEqual(subtract([r(0, 10), r(20, 30)], [r(5, 25)]), [r(0, 5), r(25, 30)]);
  assert.deepEqual(subtract([r(0, 10)], [r(2, 3), r(5, 6)]), [r(0, 2), r(3, 5), r(6, 10)]);
  assert.deepEqual(subtract([r(0, 10)], [r(0, 10)]), []);
  const gap = fetchSizes.joinGapBytes;
  assert.deepEqual(joinClose([r(0, 10), r(10 + gap, 20 + gap)], []), [r(0, 20 + gap)]);
  assert.deepEqual(joinClose([r(0, 10), r(11 + gap, 20 + gap)], []), [r(0, 10), r(11 + gap, 20 + gap)]);
  assert.deepEqual(joinClose([r(0, 10), r(20, 30)], [r(12, 14)]), [r(0, 10), r(20, 30)]);
});
