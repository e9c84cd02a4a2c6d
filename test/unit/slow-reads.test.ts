import assert from "node:assert/strict";
import { test } from "node:test";
import { monotonicMs, StepMarks } from "../../src/base/steps.js";
import { SlowReads } from "../../src/daemon/slow-reads.js";

test("steps share out the whole time, each from the end of the one before", () => {
  const transfer = new StepMarks();
  transfer.mark("token", 90);
  transfer.mark("connection", 130);
  transfer.mark("body", 140);
  transfer.mark("body", 150);
  const read = new StepMarks();
  read.mark("queue", 110);
  read.adopt(transfer);
  read.mark("decode", 170);
  read.mark("digest", 175);
  // It came after the login: that took none of its time.
  const took = { queue: 10, connection: 20, body: 20, decode: 20, digest: 5, reply: 25 };
  assert.deepEqual(read.durations(100, 200, "reply"), took);
  assert.deepEqual(read.durations(100, 145, "reply"), { queue: 10, connection: 20, body: 15 });
  assert.deepEqual(new StepMarks().durations(1, 3, "other"), { other: 2 });
  assert.deepEqual([read.has("decode"), new StepMarks().has("decode")], [true, false]);
});

test("marks are bounded, however often a read is tried again", () => {
  const marks = new StepMarks();
  for (let at = 0; at < 1000; at++) marks.mark(at % 2 === 0 ? "queue" : "body", at);
  const took = marks.durations(0, 1000, "other");
  assert.equal(took.other, 1000 - 63);
  const all = new StepMarks();
  for (let times = 0; times < 100; times++) all.adopt(marks);
  assert.deepEqual(all.durations(0, 1000, "other"), took);
});

test("the slowest reads and the latest are kept, each once", () => {
  const reads = new SlowReads("/mnt");
  const now = monotonicMs();
  for (let i = 0; i < 200; i++) {
    // The slowest come first.
    const read = { layer: "sha256:0", firstSpan: i, lastSpan: i, parkedMs: now - (200 - i) * 1000 };
    reads.add(read, new StepMarks(), i === 0 ? "network" : null);
  }
  const traces = reads.traces();
  assert.deepEqual(
    traces.map(({ firstSpan }) => firstSpan),
    [...Array.from({ length: 32 }, (_, i) => i), ...Array.from({ length: 32 }, (_, i) => 168 + i)],
  );
  const [slowest] = traces;
  assert.ok(slowest && slowest.totalMs >= 200_000);
  assert.deepEqual(slowest.steps, { other: slowest.totalMs });
  assert.equal(slowest.error, "network");
});
