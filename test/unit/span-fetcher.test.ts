import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { openZinfo } from "../../src/gzip/zinfo.js";
import { fetchSizes } from "../../src/layer/fetch-sizes.js";
import type { OpenLayer } from "../../src/layer/open-layer.js";
import { rejectsWith } from "../support/errors.js";
import {
  type LayerFixture,
  makeLayerFixture,
  type OpenFixtureOptions,
  openFixtureLayer,
} from "../support/layer-fixture.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";

const MIB = 1 << 20;

async function open(t: TestContext, fixture: LayerFixture, options: Partial<OpenFixtureOptions> = {}) {
  const blob = new MemoryBlob(fixture.gz);
  const lines: string[] = [];
  const layer = await openFixtureLayer(fixture, {
    cacheDir: join(fixture.directory, "cache"),
    source: blob,
    say: (line) => lines.push(line),
    ...options,
  });
  t.after(() => layer[Symbol.asyncDispose]());
  return { blob, layer, lines };
}

async function checkRead(layer: OpenLayer, fixture: LayerFixture, offset: number, length: number): Promise<void> {
  const got = await layer.device.read(offset, length);
  const want = fixture.tar.subarray(offset, Math.min(fixture.tar.length, offset + length));
  assert.ok(Buffer.from(got).equals(want), `bytes [${offset}, +${length})`);
}

/** As a mount reads one file: in requests of the kernel's size, telling where the file ends. */
async function readAsMount(layer: OpenLayer, begin: number, end: number, requestBytes: number): Promise<void> {
  const fileEndSpan = layer.store.spanAt(end - 1);
  for (let at = begin; at < end; at += requestBytes) {
    const last = layer.store.spanAt(Math.min(end, at + requestBytes) - 1);
    await layer.spans.ensure(layer.store.spanAt(at), last, { fileEndSpan });
  }
}

test("a layer read in pieces of any size is its tar", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer } = await open(t, fixture);
  await checkRead(layer, fixture, 0, fixture.tar.length);
  for (const length of [1, 511, 4096, 70_000, 200_001]) {
    for (let at = 0; at < fixture.tar.length; at += 50_021) await checkRead(layer, fixture, at, length);
  }
  assert.equal((await layer.device.read(fixture.tar.length, 10)).length, 0);
  assert.equal((await layer.device.read(fixture.tar.length + 1e9, 10)).length, 0);
});

test("many readers of one span share one request and one decode", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture);
  await Promise.all(Array.from({ length: 50 }, (_, i) => checkRead(layer, fixture, 100_000 + i * 20, 1000)));
  assert.equal(blob.requests.length, 1);
  assert.equal(layer.stats().cachedSpans, 1);
});

test("a read of many spans is one request", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture);
  await checkRead(layer, fixture, 0, fixture.tar.length);
  assert.equal(blob.requests.length, 1);
  assert.equal(blob.delivered, fixture.gz.length);
});

test("a reader that goes on is fetched ahead of, never past its file's end", async (t) => {
  const fixture = await makeLayerFixture(t, {
    files: { before: 3 * MIB, file: 5 * MIB, after: 6 * MIB },
    random: true,
    spanSizeBytes: MIB,
  });
  const { layer, blob } = await open(t, fixture);
  const begin = 512 + 3 * MIB + 512;
  await readAsMount(layer, begin, begin + 5 * MIB, 128 << 10);
  await checkRead(layer, fixture, begin, 5 * MIB);
  assert.ok(blob.requests.length <= 8, `${blob.requests.length} requests`);
  // Its own spans, of which the first and the last are shared with its neighbours, in whole cache blocks.
  assert.ok(blob.delivered <= 7 * MIB + 16_384, `${blob.delivered} bytes`);
  assert.ok(blob.requests.every(({ length }) => length <= fetchSizes.maxRangeBytes + 2 * MIB));
});

test("a hundred random reads in a file of 6 MB are few requests", async (t) => {
  const fixture = await makeLayerFixture(t, { files: { file: 6 * MIB }, random: true, spanSizeBytes: MIB });
  const { layer, blob } = await open(t, fixture);
  const fileEndSpan = layer.store.spanAt(512 + 6 * MIB - 1);
  for (let i = 0; i < 100; i++) {
    const at = 512 + ((i * 2_654_435_761) % (6 * MIB - 4096));
    await layer.spans.ensure(layer.store.spanAt(at), layer.store.spanAt(at + 4095), { fileEndSpan });
    await checkRead(layer, fixture, at, 4096);
  }
  assert.ok(blob.requests.length <= 8, `${blob.requests.length} requests`);
});

test("a cancelled read leaves at once, and its spans still come", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture);
  const gate = deferred();
  const started = deferred();
  blob.beforeChunk = async () => {
    started.resolve();
    await gate.promise;
  };
  const abort = new AbortController();
  const left = layer.device.read(100_000, 10, abort.signal);
  const stays = checkRead(layer, fixture, 100_000, 10);
  await started.promise;
  abort.abort();
  await rejectsWith(left, "aborted");
  gate.resolve();
  await stays;
  await rejectsWith(layer.device.read(0, 10, abort.signal), "aborted");
});

test("a failure of the source is the reader's; the next read tries again", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture);
  blob.beforeChunk = () => Promise.reject(new OcifsError("network", "connection reset"));
  await Promise.all([0, 1, 2].map(() => rejectsWith(layer.device.read(0, 200_000), "network")));
  blob.beforeChunk = async () => undefined;
  await checkRead(layer, fixture, 0, 200_000);
});

test("wrong bytes are fetched once more; right ones then serve", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob, lines } = await open(t, fixture);
  const { compressedRange } = await rangeOf(fixture, 150_000);
  let spoil = true;
  spoilWhile(blob, compressedRange, () => spoil);
  blob.beforeChunk = async () => {
    // The first transfer only: the second begins with a request of its own.
    spoil = blob.requests.length === 1;
  };
  await checkRead(layer, fixture, 150_000, 100);
  assert.equal(blob.requests.length, 2);
  assert.match(lines.join("\n"), /cached bytes are wrong, fetching them again/);
});

test("wrong bytes while the transfer goes on do not stop the process", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture);
  const { compressedRange } = await rangeOf(fixture, 0);
  let spoil = true;
  spoilWhile(blob, compressedRange, () => spoil);
  const gate = deferred();
  blob.chunkBytes = 4096;
  blob.beforeChunk = async (position) => {
    if (blob.requests.length > 1) spoil = false;
    // The first transfer stands still behind the spoilt span until the second has brought it.
    else if (position > compressedRange.end + 8192) await gate.promise;
  };
  const whole = checkRead(layer, fixture, 0, fixture.tar.length);
  await checkRead(layer, fixture, 0, 100);
  gate.resolve();
  await whole;
});

test("bytes that stay wrong are an error, and never served", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture);
  const { compressedRange } = await rangeOf(fixture, 150_000);
  let spoil = true;
  spoilWhile(blob, compressedRange, () => spoil);
  const error = await layer.device.read(150_000, 100).then(
    () => assert.fail("spoilt bytes were served"),
    (e: unknown) => e,
  );
  assert.ok(error instanceof OcifsError && ["corrupt", "mismatch"].includes(error.code), String(error));
  assert.equal(blob.requests.length, 2);
  spoil = false;
  await checkRead(layer, fixture, 150_000, 100);
});

test("who joins a fetch of wrong bytes tries once for himself", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture);
  const { compressedRange } = await rangeOf(fixture, 150_000);
  spoilWhile(blob, compressedRange, () => blob.requests.length <= 2);
  const gate = deferred();
  const second = deferred();
  blob.beforeChunk = async () => {
    if (blob.requests.length !== 2) return;
    second.resolve();
    await gate.promise;
  };
  const first = layer.device.read(150_000, 100).then(
    () => assert.fail("spoilt bytes were served"),
    (e: unknown) => e,
  );
  await second.promise;
  const joins = [0, 1, 2].map(() => checkRead(layer, fixture, 150_000, 100));
  gate.resolve();
  assert.ok((await first) instanceof OcifsError);
  await Promise.all(joins);
  assert.equal(blob.requests.length, 3);
});

test("a foreign zinfo is checked against the blob by its windows", async (t) => {
  const fixture = await makeLayerFixture(t);
  const { layer, blob } = await open(t, fixture, { foreign: true });
  await checkRead(layer, fixture, 150_000, 1000);
  // The span before it was needed to check the window that the span starts from.
  assert.equal(layer.stats().cachedSpans, 1);
  const first = await rangeOf(fixture, 150_000);
  const before = await rangeOf(fixture, first.outStart - 1);
  const asked = blob.requests.map(({ offset }) => offset);
  assert.ok(
    asked.some((offset) => offset <= before.compressedRange.begin),
    JSON.stringify(asked),
  );
  await checkRead(layer, fixture, 0, fixture.tar.length - 10_240);
});

test("a blob that turns out to have another digest is not served any further", async (t) => {
  const fixture = await makeLayerFixture(t);
  // The gzip header's time field: every span decodes, the digest does not fit.
  const other = Buffer.from(fixture.gz);
  other[4] = (other[4] ?? 0) ^ 1;
  const blob = new MemoryBlob(other, fixture.index.manifest.blob.digest);
  const refused = deferred();
  const layer = await openFixtureLayer(fixture, {
    cacheDir: join(fixture.directory, "cache"),
    source: blob,
    foreign: true,
    say: (line) => line.startsWith("error: ") && refused.resolve(),
  });
  t.after(() => layer[Symbol.asyncDispose]());
  await layer.device.read(0, layer.device.sizeBytes).catch((error: unknown) => assert.ok(error instanceof OcifsError));
  await refused.promise;
  const error = await rejectsWith(layer.device.read(0, 10), "mismatch");
  assert.match(error.message, /its digest is sha256:[0-9a-f]{64}; its bytes are not served any more/);
  assert.equal(layer.stats().problem?.sentence, error.message);
  // The eviction runs on another thread; closing waits for it.
  await layer[Symbol.asyncDispose]();
  await using again = await openFixtureLayer(fixture, {
    cacheDir: join(fixture.directory, "cache"),
    source: new MemoryBlob(fixture.gz),
    foreign: true,
  });
  assert.equal(again.stats().cachedSpans, 0);
  await checkRead(again, fixture, 0, 10_000);
});

/** Where the span of this uncompressed byte lies. */
async function rangeOf(fixture: LayerFixture, offset: number) {
  const source = new MemoryBlob(fixture.gz);
  await using zinfo = await openZinfo(fixture.index.zinfoPath, { blobSizeBytes: source.sizeBytes });
  const index = new SpanIndex(zinfo, {
    blobSizeBytes: source.sizeBytes,
    uncompressedSizeBytes: fixture.tar.length,
    streamEnds: true,
  });
  let span = 0;
  while (index.outEnd(span) <= offset) span++;
  return { span, outStart: index.outStart(span), compressedRange: index.compressedRange(span) };
}

/** Flips a bit in the middle of a range of the blob, as long as the condition holds. */
function spoilWhile(blob: MemoryBlob, range: { begin: number; end: number }, condition: () => boolean): void {
  const at = (range.begin + range.end) >> 1;
  const fetchRange = blob.fetchRange.bind(blob);
  blob.fetchRange = async function* (offset, length, options) {
    let position = offset;
    for await (const chunk of fetchRange(offset, length, options)) {
      const copy = Buffer.from(chunk);
      if (at >= position && at < position + copy.length && condition()) {
        copy[at - position] = (copy[at - position] ?? 0) ^ 0x10;
      }
      position += copy.length;
      yield copy;
    }
  };
}
