import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { fetchSizes } from "../../src/layer/fetch-sizes.js";
import { planReplay } from "../../src/layer/profile-plan.js";
import { ProfileReplay } from "../../src/layer/profile-replay.js";
import type { SpanRange } from "../../src/layer/span-ranges.js";
import { deferred } from "../support/memory-blob.js";

const spanBytes = 512 << 10;
const sizeOf = ({ first, last }: SpanRange) => (last - first + 1) * spanBytes;
const accessesOf = (...spans: readonly number[]) => spans.map((span, atMs) => ({ atMs, span }));
const words = (step: { layer: number } & SpanRange) => `${step.layer}:${step.first}-${step.last}`;

/** Layers whose fetches end when the test says so. */
function setUp(...spans: readonly (readonly number[])[]) {
  const begun: { words: string; giveUp: AbortSignal; end: (error?: unknown) => void; open: boolean }[] = [];
  const layers = spans.map((list, layer) => ({
    accesses: accessesOf(...list),
    sizeOf,
    fetchAhead: (range: SpanRange, giveUp: AbortSignal) => {
      const { promise, resolve, reject } = deferred();
      const fetch = {
        words: words({ layer, ...range }),
        giveUp,
        open: true,
        end: (error?: unknown) => {
          fetch.open = false;
          if (error === undefined) resolve();
          else reject(error);
        },
      };
      giveUp.addEventListener("abort", () => fetch.end());
      begun.push(fetch);
      return promise;
    },
  }));
  const replay = new ProfileReplay(layers);
  const endAll = async () => {
    for (const fetch of begun) if (fetch.open) fetch.end();
    await setImmediate();
  };
  return { replay, begun, endAll };
}

const largest = Math.max(fetchSizes.profileInFlightBytes, fetchSizes.profileUnprovenBytes) / spanBytes;
const many = Array.from({ length: 12 * largest }, (_, i) => i * 2);

test("a plan has what is wanted first first, and neighbours of one batch together", () => {
  const perBatch = fetchSizes.profileBatchBytes / spanBytes;
  assert.equal(perBatch, 4);
  const layers = [
    { accesses: [5, 3, 4, 9].map((span, i) => ({ atMs: 10 * i, span })), sizeOf },
    { accesses: [7, 8, 20].map((span, i) => ({ atMs: 10 * i + 5, span })), sizeOf },
  ];
  // In the order of time: 0:5 1:7 0:3 1:8 | 0:4 1:20 0:9.
  assert.deepEqual(planReplay(layers).map(words), ["0:5-5", "1:7-8", "0:3-3", "0:4-4", "1:20-20", "0:9-9"]);
  assert.deepEqual(planReplay([{ accesses: accessesOf(2, 1, 0), sizeOf }]).map(words), ["0:0-2"]);
  assert.deepEqual(planReplay([]), []);
});

test("it goes no further ahead of its readers than its bound, and on as they come", async () => {
  const { replay, begun, endAll } = setUp(many);
  const run = replay.run();
  for (let i = 0; i < 100; i++) await endAll();
  assert.equal(begun.length, fetchSizes.profileUnprovenBytes / spanBytes);
  for (const [i, span] of many.entries()) {
    using _ = replay.demand(0, { first: span, last: span });
    await endAll();
    assert.ok(begun.length >= Math.min(many.length, i + 1 + fetchSizes.profileUnprovenBytes / spanBytes));
    assert.ok(replay.account.unprovenBytes <= fetchSizes.profileUnprovenBytes);
  }
  await run;
  const { askedBytes, unprovenBytes, hits, strays } = replay.account;
  assert.deepEqual([askedBytes, unprovenBytes, hits, strays], [many.length * spanBytes, 0, many.length, 0]);
});

test("of a small profile nobody proves, a quarter or one request is fetched", async () => {
  const { replay, begun, endAll } = setUp([0, 2, 4, 6, 8, 10, 12, 14]);
  void replay.run();
  for (let i = 0; i < 20; i++) await endAll();
  assert.deepEqual(
    begun.map((fetch) => fetch.words),
    ["0:0-0", "0:2-2"],
  );
  await replay[Symbol.asyncDispose]();
});

test("no more requests and bytes are on their way than allowed", async () => {
  const { replay, begun } = setUp(many);
  void replay.run();
  await setImmediate();
  assert.equal(begun.length, Math.min(fetchSizes.profileRequests, fetchSizes.profileInFlightBytes / spanBytes));
  await replay[Symbol.asyncDispose]();
});

test("nothing is begun while a reader waits for something else", async () => {
  const { replay, begun, endAll } = setUp(many);
  {
    using _ = replay.demand(0, { first: 1001, last: 1001 });
    void replay.run();
    await endAll();
    assert.equal(begun.length, 0);
  }
  await setImmediate();
  assert.ok(begun.length > 0);
  await replay[Symbol.asyncDispose]();
});

test("what readers asked for first is no guess any more", async () => {
  const { replay, endAll } = setUp([0, 2, 4, 6]);
  for (const span of [0, 2, 4, 6]) replay.demand(0, { first: span, last: span })[Symbol.dispose]();
  const run = replay.run();
  await endAll();
  await run;
  assert.deepEqual(replay.account, { askedBytes: 0, unprovenBytes: 0, hits: 4, strays: 0 });
});

test("a profile of another use is given up", async () => {
  const { replay, begun, endAll } = setUp(many);
  const run = replay.run();
  await setImmediate();
  const count = begun.length;
  for (let i = 0; i < 8; i++) replay.demand(0, { first: 1001 + 2 * i, last: 1001 + 2 * i })[Symbol.dispose]();
  assert.ok(begun.every((fetch) => fetch.giveUp.aborted));
  await endAll();
  await run;
  assert.equal(begun.length, count);
});

test("a failure ends it, and is told; closing does not wait for what hangs", async () => {
  const failed = setUp(many);
  const run = failed.replay.run();
  await setImmediate();
  failed.begun[0]?.end(new Error("no such file"));
  await assert.rejects(run, /no such file/);
  const hanging = setUp(many);
  void hanging.replay.run();
  await setImmediate();
  await hanging.replay[Symbol.asyncDispose]();
  assert.ok(hanging.begun.every((fetch) => fetch.giveUp.aborted));
});
