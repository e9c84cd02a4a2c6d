import assert from "node:assert/strict";
import { test } from "node:test";
import { SpanIndex } from "../../src/gzip/span-index.js";

function table(rows: [number, number, number][]) {
  return {
    in: Float64Array.from(rows, (r) => r[0]),
    out: Float64Array.from(rows, (r) => r[1]),
    bits: Uint8Array.from(rows, (r) => r[2]),
  };
}

const three = table([
  [10, 0, 0],
  [1000, 50000, 3],
  [2000, 90000, 0],
]);

test("spans run from one checkpoint to the next", () => {
  const index = new SpanIndex(three, { blobSizeBytes: 3000, uncompressedSizeBytes: 100000, streamEnds: true });
  assert.equal(index.spanCount, 3);
  assert.deepEqual(
    [0, 1, 2].map((i) => [index.outStart(i), index.outEnd(i)]),
    [
      [0, 50000],
      [50000, 90000],
      [90000, 100000],
    ],
  );
  assert.deepEqual(index.compressedRange(0), { begin: 0, end: 1000 });
  assert.deepEqual(index.compressedRange(1), { begin: 999, end: 2000 });
  assert.deepEqual(index.compressedRange(2), { begin: 2000, end: 3000 });
  assert.deepEqual(index.span(0), {
    begin: 0,
    end: 1000,
    bits: 0,
    atHeader: true,
    outSizeBytes: 50000,
    windowRecord: -1,
    nextWindowRecord: 1,
    last: false,
  });
  assert.deepEqual(index.span(1), {
    begin: 999,
    end: 2000,
    bits: 3,
    atHeader: false,
    outSizeBytes: 40000,
    windowRecord: 1,
    nextWindowRecord: 2,
    last: false,
  });
  assert.deepEqual(index.span(2), {
    begin: 2000,
    end: 3000,
    bits: 0,
    atHeader: false,
    outSizeBytes: 10000,
    windowRecord: 2,
    nextWindowRecord: -1,
    last: true,
  });
});

test("spanAt finds the span of every edge", () => {
  const index = new SpanIndex(three, { blobSizeBytes: 3000, uncompressedSizeBytes: 100000, streamEnds: true });
  const spans = [0, 49999, 50000, 89999, 90000, 99999].map((offset) => index.spanAt(offset));
  assert.deepEqual(spans, [0, 0, 1, 1, 2, 2]);
  for (const offset of [-1, 100000, Number.NaN]) assert.throws(() => index.spanAt(offset), { code: "usage" });
  for (const span of [-1, 3, 0.5]) assert.throws(() => index.outStart(span), { code: "usage" });
});

test("a size that ends before the last checkpoints leaves them out, and no stream end is asked for", () => {
  const options = { blobSizeBytes: 3000, streamEnds: false };
  const inside = new SpanIndex(three, { ...options, uncompressedSizeBytes: 80000 });
  assert.equal(inside.spanCount, 2);
  assert.deepEqual(inside.span(1), {
    begin: 999,
    end: 2000,
    bits: 3,
    atHeader: false,
    outSizeBytes: 30000,
    windowRecord: 1,
    nextWindowRecord: -1,
    last: false,
  });
  const exact = new SpanIndex(three, { ...options, uncompressedSizeBytes: 90000 });
  assert.equal(exact.spanCount, 2);
  assert.equal(exact.span(1).nextWindowRecord, 2);
  assert.equal(exact.outEnd(1), 90000);
  assert.throws(() => new SpanIndex(three, { ...options, uncompressedSizeBytes: 80000, streamEnds: true }), {
    code: "mismatch",
  });
});

test("checkpoints around empty members make no span", () => {
  const rows = table([
    [10, 0, 0],
    [30, 0, 0],
    [1000, 50000, 0],
    [1030, 50000, 0],
    [1060, 50000, 0],
    [2000, 60000, 0],
  ]);
  const index = new SpanIndex(rows, { blobSizeBytes: 2100, uncompressedSizeBytes: 60000, streamEnds: true });
  assert.equal(index.spanCount, 2);
  assert.deepEqual(index.compressedRange(0), { begin: 0, end: 1000 });
  assert.deepEqual(index.compressedRange(1), { begin: 1000, end: 2000 });
  assert.equal(index.recordOf(1), 2);
  assert.equal(index.span(1).nextWindowRecord, 5);
  assert.equal(index.spanAt(49999), 0);
  assert.equal(index.spanAt(50000), 1);
});

test("an empty layer has one empty span", () => {
  const index = new SpanIndex(table([[10, 0, 0]]), { blobSizeBytes: 20, uncompressedSizeBytes: 0, streamEnds: true });
  assert.equal(index.spanCount, 1);
  assert.deepEqual(index.span(0), {
    begin: 0,
    end: 20,
    bits: 0,
    atHeader: true,
    outSizeBytes: 0,
    windowRecord: -1,
    nextWindowRecord: -1,
    last: true,
  });
});

test("a size that deflate cannot reach is refused", () => {
  const options = { blobSizeBytes: 3000, uncompressedSizeBytes: 90000 + 1032 * 1000 + 1, streamEnds: true };
  assert.throws(() => new SpanIndex(three, options), { code: "mismatch" });
});
