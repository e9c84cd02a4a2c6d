import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { limits } from "../../src/base/limits.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightStream } from "../../src/layer/in-flight-stream.js";
import { InFlightStreams, type OpenedStream } from "../../src/layer/in-flight-streams.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";

function setUp(blob = new MemoryBlob(randomBytes(500_000))) {
  const counts = { opened: 0, closed: 0 };
  const allClosed = deferred();
  const open = async (): Promise<OpenedStream> => {
    counts.opened += 1;
    const file = CompressedFile.openInMemory(blob.sizeBytes);
    const stream = InFlightStream.open({ source: blob, file });
    return {
      stream,
      [Symbol.asyncDispose]: async () => {
        await stream[Symbol.asyncDispose]();
        await file[Symbol.asyncDispose]();
        counts.closed += 1;
        allClosed.resolve();
      },
    };
  };
  return { blob, counts, open, allClosed: allClosed.promise, key: { scope: "registry/a", digest: blob.digest } };
}

test("all who ask at once share one stream, which goes with the last of them", async () => {
  const { open, key, counts, blob } = setUp();
  await using streams = new InFlightStreams();
  const uses = await Promise.all(Array.from({ length: 20 }, () => streams.use(key, open)));
  assert.equal(new Set(uses.map(({ stream }) => stream)).size, 1);
  await Promise.all(uses.map(({ stream }) => collect(stream.follow())));
  for (const use of uses) {
    assert.deepEqual(counts, { opened: 1, closed: 0 });
    await use[Symbol.asyncDispose]();
    if (use !== uses.at(-1)) await use[Symbol.asyncDispose]();
  }
  assert.deepEqual(counts, { opened: 1, closed: 1 });
  assert.equal(streams.size, 0);
  assert.equal(blob.requests.length, 1);
});

test("an open that fails is told to everyone who asked, and is tried again by the next", async () => {
  const { open, key } = setUp();
  await using streams = new InFlightStreams();
  const failing = async (): Promise<OpenedStream> => {
    throw new OcifsError("not-found", "no such blob");
  };
  const asking = [streams.use(key, failing), streams.use(key, failing)];
  await Promise.all(asking.map((use) => rejectsWith(use, "not-found")));
  assert.equal(streams.size, 0);
  await using use = await streams.use(key, open);
  await use.stream.finish();
});

test("a download that is to be finished outlives its users, and is closed at its end", async () => {
  const { blob, open, key, counts, allClosed } = setUp();
  const gate = deferred();
  blob.beforeChunk = () => gate.promise;
  await using streams = new InFlightStreams();
  const use = await streams.use(key, open);
  use.finishWithoutUsers();
  use.finishWithoutUsers();
  await use[Symbol.asyncDispose]();
  assert.deepEqual([streams.size, counts.closed], [1, 0]);
  gate.resolve();
  await allClosed;
  assert.equal(streams.size, 0);
  assert.equal(use.stream.complete, true);
});

test("a download that fails without users is closed too", async () => {
  const { blob, open, key, allClosed } = setUp();
  const gate = deferred();
  blob.beforeChunk = () => gate.promise;
  await using streams = new InFlightStreams();
  const use = await streams.use(key, open);
  use.finishWithoutUsers();
  await use[Symbol.asyncDispose]();
  gate.reject(new OcifsError("network", "connection reset"));
  await allClosed;
  assert.equal(streams.size, 0);
});

test("a user who stays keeps it open after its end, and can try again after a failure", async () => {
  const { blob, open, key, counts } = setUp();
  await using streams = new InFlightStreams();
  await using use = await streams.use(key, open);
  blob.beforeChunk = async () => {
    throw new OcifsError("network", "connection reset");
  };
  use.finishWithoutUsers();
  await rejectsWith(use.stream.finish(), "network");
  blob.beforeChunk = async () => undefined;
  await using another = await streams.use(key, open);
  assert.equal(another.stream, use.stream);
  assert.deepEqual(await collect(another.stream.follow()), Buffer.from(blob.bytes));
  assert.deepEqual(counts, { opened: 1, closed: 0 });
});

test("closing ends all of them, with and without users", async () => {
  const { blob, open, key, counts } = setUp();
  blob.beforeChunk = (_position, { signal }) =>
    new Promise((_resolve, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true }));
  const streams = new InFlightStreams();
  const uses = await Promise.all(["a", "b", "c"].map((scope) => streams.use({ ...key, scope }, open)));
  const reading = uses.map(({ stream }) => rejectsWith(collect(stream.follow()), "aborted"));
  uses[0]?.finishWithoutUsers();
  await uses[0]?.[Symbol.asyncDispose]();
  await streams[Symbol.asyncDispose]();
  await Promise.all(reading);
  assert.deepEqual(counts, { opened: 3, closed: 3 });
  await rejectsWith(streams.use(key, open), "aborted");
  for (const use of uses) await use[Symbol.asyncDispose]();
});

test("a close that fails is told when all are closed", async () => {
  const { open, key } = setUp();
  const streams = new InFlightStreams();
  const use = await streams.use(key, async () => {
    const { stream } = await open();
    return {
      stream,
      [Symbol.asyncDispose]: async () => {
        await stream[Symbol.asyncDispose]();
        throw new OcifsError("io", "close: bad descriptor");
      },
    };
  });
  await use[Symbol.asyncDispose]();
  await rejectsWith(streams[Symbol.asyncDispose](), "io");
});

test("there is a limit to how many are open", async () => {
  const { open, key, counts } = setUp();
  await using streams = new InFlightStreams();
  const uses = await Promise.all(
    Array.from({ length: limits.inFlightStreams }, (_, index) => streams.use({ ...key, scope: `${index}` }, open)),
  );
  await rejectsWith(streams.use({ ...key, scope: "one more" }, open), "limit");
  await uses[0]?.[Symbol.asyncDispose]();
  await using again = await streams.use({ ...key, scope: "one more" }, open);
  assert.equal(again.stream.complete, false);
  assert.equal(counts.opened, limits.inFlightStreams + 1);
});
