import assert from "node:assert/strict";
import { test } from "node:test";
import { mapConcurrently } from "../../src/base/concurrency.js";

test("results come in the items' order, and no more than the limit run at once", async () => {
  let running = 0;
  let most = 0;
  const results = await mapConcurrently([3, 1, 2, 5, 4], 2, async (item) => {
    most = Math.max(most, ++running);
    for (let i = 0; i < item; i++) await Promise.resolve();
    running--;
    return item * 10;
  });
  assert.deepEqual(results, [30, 10, 20, 50, 40]);
  assert.equal(most, 2);
  assert.deepEqual(await mapConcurrently([], 2, async () => 1), []);
});

test("the first failure aborts the others, is thrown when they have ended, and starts nothing more", async () => {
  const started: number[] = [];
  let ended = 0;
  const failing = mapConcurrently([0, 1, 2, 3], 2, async (item, signal) => {
    started.push(item);
    if (item === 1) throw new Error("first");
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
    ended++;
    throw new Error("second");
  });
  await assert.rejects(failing, /first/);
  assert.deepEqual(started, [0, 1]);
  assert.equal(ended, 1);
});

test("the caller's signal reaches the work", async () => {
  const stop = new AbortController();
  const working = mapConcurrently(
    [0],
    1,
    (_, signal) =>
      new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true })),
    stop.signal,
  );
  stop.abort(new Error("enough"));
  await assert.rejects(working, /enough/);
});
