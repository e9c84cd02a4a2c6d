import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { Transfer } from "../../src/layer/transfer.js";
import { rejectsWith } from "../support/errors.js";

const file = CompressedFile.openInMemory(100 * 4096);
const make = () => new Transfer(file, { begin: 4096, end: 10 * 4096 }, "prefetch", undefined);

test("those who wait are woken as the frontier passes them", async () => {
  const transfer = make();
  const order: number[] = [];
  const waiting = [3, 2, 9].map(async (block) => {
    assert.equal(await transfer.reached(block * 4096, undefined), true);
    order.push(block);
  });
  transfer.advance(2 * 4096);
  await Promise.resolve();
  await waiting[1];
  assert.deepEqual(order, [2]);
  transfer.advance(9 * 4096);
  await Promise.all(waiting);
  assert.deepEqual(order, [2, 3, 9]);
  assert.equal(await transfer.reached(4096, undefined), true);
});

test("a cut tells those beyond it at once that their bytes do not come this way; the others go on waiting", async () => {
  const transfer = make();
  const beyond = transfer.reached(8 * 4096, undefined);
  const before = transfer.reached(5 * 4096, undefined);
  transfer.cut(5 * 4096);
  assert.equal(await beyond, false);
  assert.equal(await transfer.reached(6 * 4096, undefined), false);
  assert.equal(transfer.stopped.aborted, false);
  transfer.advance(7 * 4096);
  assert.equal(await before, true);
  assert.deepEqual(transfer.rest, { begin: 5 * 4096, end: 5 * 4096 });
});

test("a cut at or behind the frontier stops it there", () => {
  const transfer = make();
  transfer.advance(3 * 4096);
  transfer.cut(0);
  assert.equal(transfer.stopped.aborted, true);
  assert.deepEqual([transfer.frontier, transfer.end], [3 * 4096, 3 * 4096]);
});

test("trimming leaves what somebody waits for", async () => {
  const transfer = make();
  const waiting = transfer.reached(6 * 4096, undefined);
  transfer.trim();
  assert.equal(transfer.end, 6 * 4096);
  transfer.finish();
  assert.equal(await waiting, true);
  const unwanted = make();
  unwanted.trim();
  assert.equal(unwanted.stopped.aborted, true);
});

test("a failure reaches all, also who comes later, and signals are let go of", async () => {
  const transfer = make();
  const { signal } = new AbortController();
  const waiting = [2, 5].map((block) => rejectsWith(transfer.reached(block * 4096, signal), "network"));
  transfer.fail(new OcifsError("network", "connection reset"));
  await Promise.all(waiting);
  await rejectsWith(transfer.reached(5 * 4096, signal), "network");
  assert.deepEqual(getEventListeners(signal, "abort"), []);
});

test("it is a prefetch until somebody needs it", () => {
  const transfer = make();
  assert.equal(transfer.priority, "prefetch");
  transfer.promote();
  transfer.promote();
  assert.equal(transfer.priority, "demand");
  assert.equal(new Transfer(file, { begin: 0, end: 1 }, "demand", undefined).priority, "demand");
});
