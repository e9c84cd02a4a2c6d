import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { fetchSizes } from "../../src/layer/fetch-sizes.js";
import { type Ahead, ReadAhead } from "../../src/layer/read-ahead.js";
import { Speculation } from "../../src/layer/speculation.js";

const KIB = 1 << 10;

/** A layer of equal spans, as its planner sees it. */
function layerOf(spanCount: number, spanBytes = 400 * KIB) {
  const compressedRange = (span: number) => ({ begin: span * spanBytes, end: (span + 1) * spanBytes });
  const speculation = new Speculation({ spanCount, compressedRange }, () => false);
  const readAhead = new ReadAhead(speculation, spanCount);
  const fetched = new Set<number>();
  const asked = new Set<number>();
  /** Notes a miss; returns what was planned, as pairs. */
  const miss = (first: number, last = first, fileEnd = last): [number, number][] => {
    const plans = readAhead.note(first, last, fileEnd);
    for (let span = first; span <= last; span++) asked.add(span);
    for (const plan of plans) for (let span = plan.first; span <= plan.last; span++) fetched.add(span);
    return plans.map((plan) => [plan.first, plan.last]);
  };
  return { speculation, readAhead, fetched, asked, miss, spanBytes };
}

test("reads here and there earn nothing", () => {
  const { miss } = layerOf(1000);
  for (const span of [500, 20, 900, 300, 700, 100]) assert.deepEqual(miss(span), []);
});

test("a reader within a file is fetched ahead of to the file's end, from 1 MiB, doubling", () => {
  const { miss, fetched } = layerOf(1000);
  const fileEnd = 99;
  const steps: number[] = [];
  assert.deepEqual(miss(10, 10, fileEnd), []);
  for (let span = 11; span <= fileEnd; span++) {
    for (const [first, last] of miss(span, span, fileEnd)) steps.push(last - first + 1);
  }
  assert.equal(steps[0], 2);
  const largest = Math.floor(fetchSizes.maxRangeBytes / (400 * KIB));
  assert.ok(steps.every((step) => step <= largest) && steps.some((step) => step > largest / 3), String(steps));
  assert.equal(Math.max(...fetched), fileEnd);
});

test("a reader of files that lie one behind the other is fetched ahead of past their ends", () => {
  const { miss, fetched, asked, speculation, spanBytes } = layerOf(400);
  let requests = 0;
  for (let span = 0; span < 400; span++) {
    // What is on its way or here already costs no request of its own.
    if (!fetched.has(span)) requests += 1;
    requests += miss(span).filter(([first]) => first !== span + 1).length;
    if (span < 2) assert.equal(fetched.size, 0);
  }
  assert.ok(requests < 60, `${requests} requests`);
  assert.ok([...fetched].every((span) => asked.has(span)));
  assert.deepEqual(speculation.account, {
    touchedBytes: 400 * spanBytes,
    usedBytes: fetched.size * spanBytes,
    unusedBytes: 0,
  });
});

test("the next bytes are asked for while half of the last are still to be read", () => {
  const { miss, fetched } = layerOf(1000);
  let emptyAt: number | undefined;
  for (let span = 0; span < 900; span++) {
    miss(span);
    if (span > 100 && !fetched.has(span + 5)) emptyAt ??= span;
  }
  assert.equal(emptyAt, undefined);
});

test("small gaps and a turn back do not end a run", () => {
  const { miss, fetched } = layerOf(200);
  for (const span of [56, 59, 60, 61, 57, 58, 62, 63, 64]) miss(span);
  assert.ok(fetched.has(65) && fetched.has(66));
});

test("a second read in a small file brings the rest of it, as far as what was read of it allows", () => {
  const { miss, speculation } = layerOf(1000);
  assert.deepEqual(miss(200, 200, 206), []);
  assert.deepEqual(miss(205, 206, 206), [[202, 204]]);
  assert.deepEqual(miss(204, 204, 206), [[202, 203]]);
  assert.ok(speculation.account.unusedBytes <= 3 * 400 * KIB);
});

test("of a large file only the neighbourhood is fetched", () => {
  const { miss, fetched } = layerOf(10_000);
  miss(200, 200, 9000);
  miss(5000, 5000, 9000);
  miss(300, 300, 9000);
  assert.equal(fetched.size, 0);
});

test("who knows of no file is fetched ahead of as a reader of the layer", () => {
  const { miss, fetched } = layerOf(100);
  for (let span = 0; span < 20; span++) miss(span, span, span);
  assert.ok(fetched.has(25));
});

test("what was expected of a reader is given up after others were read for long enough", () => {
  const { readAhead } = layerOf(10_000);
  const plans: Ahead[] = [];
  for (let span = 0; span < 10; span++) plans.push(...readAhead.note(span, span, span));
  const [plan] = plans;
  assert.ok(plan);
  for (let i = 1; i < fetchSizes.trackedReaders; i++) readAhead.note(100 * i, 100 * i, 100 * i);
  assert.equal(plan.giveUp.aborted, false);
  readAhead.note(9000, 9000, 9000);
  assert.equal(plan.giveUp.aborted, true);
});

test("whatever is read, guesses stay within their share or within what the last run has shown", () => {
  const walk = fc.array(fc.record({ at: fc.nat(299), length: fc.integer({ min: 1, max: 30 }) }), { maxLength: 40 });
  fc.assert(
    fc.property(walk, (runs) => {
      const { miss, speculation, fetched, asked, spanBytes } = layerOf(330);
      let longest = 0;
      for (const { at, length } of runs) {
        longest = Math.max(longest, length);
        for (let span = at; span < at + length; span++) if (!asked.has(span)) miss(span);
        const { touchedBytes, usedBytes, unusedBytes } = speculation.account;
        assert.equal(touchedBytes, asked.size * spanBytes);
        const unused = [...fetched].filter((span) => !asked.has(span)).length;
        assert.equal(unusedBytes, unused * spanBytes);
        assert.ok(usedBytes <= touchedBytes);
        // Runs that met are one; none shows more than has been read.
        const shown = Math.min(fetchSizes.maxRangeBytes, touchedBytes);
        assert.ok(unusedBytes <= Math.max(shown, touchedBytes * fetchSizes.unprovenShare) + spanBytes);
      }
    }),
  );
});
