import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { isOcifsError, OcifsError } from "../../src/base/errors.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightStream } from "../../src/layer/in-flight-stream.js";
import { Pace } from "../../src/layer/pace.js";
import { collect } from "../support/bytes.js";
import { FakeClock } from "../support/fake-clock.js";
import { MemoryBlob } from "../support/memory-blob.js";

const BLOCK = 4096;
const maxBlocks = 64;

/** Positions are in per mille of the blob's size. */
const position = fc.nat(1000);
const reader = fc.record({
  kind: fc.constantFrom("follow", "part", "read", "finish"),
  from: position,
  length: position,
  /** Turns of the event loop before it comes, and between chunks. */
  delay: fc.nat(6),
  /** Chunks after which it is cancelled, or leaves. */
  cancelAfter: fc.option(fc.nat(5), { nil: undefined }),
  leaveAfter: fc.option(fc.nat(5), { nil: undefined }),
});
type Reader = typeof reader extends fc.Arbitrary<infer T> ? T : never;

const scenario = fc.record({
  sizeBytes: fc.oneof(
    fc.nat(maxBlocks * BLOCK),
    fc.nat(maxBlocks).map((blocks) => blocks * BLOCK),
  ),
  sourceChunk: fc.integer({ min: 500, max: 20_000 }),
  chunkBytes: fc.oneof(fc.constantFrom(BLOCK, 4 * BLOCK), fc.integer({ min: 700, max: 100_000 })),
  requestBytes: fc.option(fc.integer({ min: 1, max: 100_000 }), { nil: undefined }),
  ranges: fc.boolean(),
  prefetch: fc.boolean(),
  there: fc.uniqueArray(fc.nat(maxBlocks - 1), { maxLength: 20 }),
  /** Chunks of the source after which it fails, one after the other. */
  failures: fc.array(fc.nat(10), { maxLength: 4 }),
  holds: fc.array(fc.nat(20), { maxLength: 3 }),
  readers: fc.array(reader, { minLength: 1, maxLength: 12 }),
});

/** Bytes that tell where they are from. */
function oracle(sizeBytes: number): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at++) bytes[at] = (at * 131 + (at >> 8) * 17 + (at >> 12)) & 0xff;
  return bytes;
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await setImmediate();
}

/** Failures that the scenario itself makes. Anything else is a defect. */
function expected(error: unknown): void {
  if (!isOcifsError(error, "network") && !isOcifsError(error, "aborted")) throw error;
}

async function run(stream: InFlightStream, bytes: Buffer, plan: Reader): Promise<void> {
  const from = Math.floor((plan.from * bytes.length) / 1000);
  const to = from + Math.floor((plan.length * (bytes.length - from)) / 1000);
  const abort = new AbortController();
  const { signal } = abort;
  await turns(plan.delay);
  try {
    if (plan.kind === "read" || plan.kind === "finish") {
      const work = plan.kind === "read" ? stream.read(from, to - from, signal) : stream.finish(signal);
      const checked = work.then((got) => {
        if (got instanceof Uint8Array) assert.ok(bytes.subarray(from, to).equals(got), `read [${from}, ${to})`);
        else assert.equal(stream.complete, true);
      });
      // Whatever comes first, the other is looked at too.
      const cancelled = turns(plan.cancelAfter ?? 0).then(() => plan.cancelAfter !== undefined && abort.abort());
      const [outcome] = await Promise.allSettled([checked, cancelled]);
      if (outcome.status === "rejected") throw outcome.reason;
      return;
    }
    const end = plan.kind === "part" ? to : bytes.length;
    let at = from;
    let chunks = 0;
    for await (const chunk of stream.follow({ from, to: end, signal })) {
      assert.ok(bytes.subarray(at, at + chunk.length).equals(chunk), `chunk at ${at} of ${bytes.length}`);
      at += chunk.length;
      chunks += 1;
      if (chunks === plan.leaveAfter) return;
      if (chunks === plan.cancelAfter) abort.abort();
      await turns(plan.delay);
    }
    assert.equal(at, end, "a clean end is the end");
    if (end === bytes.length) assert.equal(stream.complete, true);
  } catch (error) {
    expected(error);
  }
}

test("whatever readers, failures and cancels do, every byte is right, and none is fetched in vain", async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async (s) => {
      const bytes = oracle(s.sizeBytes);
      const blob = new MemoryBlob(bytes);
      blob.chunkBytes = s.sourceChunk;
      blob.rangesSupported = s.ranges;
      await using file = CompressedFile.openInMemory(s.sizeBytes);
      let present = 0;
      for (const block of s.there) {
        const [begin, end] = [block * BLOCK, Math.min(s.sizeBytes, (block + 1) * BLOCK)];
        if (begin >= end) continue;
        await file.writer({ begin, end }).append(bytes.subarray(begin, end));
        present += end - begin;
      }
      const pace = new Pace({ bytesPerSecond: 1e6, clock: new FakeClock() });
      const failures = [...s.failures];
      const holds = [...s.holds];
      let untilFailure = failures.shift();
      let chunks = 0;
      blob.beforeChunk = async () => {
        chunks += 1;
        if (chunks === holds[0]) {
          holds.shift();
          const hold = pace.hold();
          void turns(5).then(() => hold[Symbol.dispose]());
        }
        if (untilFailure === undefined) return;
        if (untilFailure > 0) {
          untilFailure -= 1;
          return;
        }
        untilFailure = failures.shift();
        throw new OcifsError("network", "connection reset");
      };
      await using stream = InFlightStream.open({
        source: blob,
        file,
        chunkBytes: s.chunkBytes,
        pace,
        priority: s.prefetch ? "prefetch" : "demand",
        ...(s.requestBytes === undefined ? {} : { requestBytes: s.requestBytes }),
      });
      await Promise.all(s.readers.map((plan) => run(stream, bytes, plan)));
      // Takeover until there are no failures left; what a broken transfer brought is kept.
      for (let tries = 0; !stream.complete; tries++) {
        assert.ok(tries <= s.failures.length + 1, "a try without a failure completes");
        await stream.finish().catch(expected);
      }
      assert.ok((await collect(stream.follow())).equals(bytes));
      // Lost are what a failure or a cut leaves of a block and of a chunk under way; ends and joins of ranges cost some more.
      if (s.ranges) {
        const allowed = s.sizeBytes - present + (blob.requests.length + 1) * (BLOCK + s.sourceChunk) + 20 * 17 * BLOCK;
        assert.ok(blob.delivered <= allowed, `${blob.delivered} delivered of ${s.sizeBytes}, ${present} were there`);
      }
    }),
    { numRuns: 300 },
  );
});
