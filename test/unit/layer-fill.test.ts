import assert from "node:assert/strict";
import { open, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { isOcifsError, OcifsError } from "../../src/base/errors.js";
import { unlimitedRoom } from "../../src/cache/room.js";
import type { FillOutcome } from "../../src/layer/layer-fill.js";
import type { OpenLayer } from "../../src/layer/open-layer.js";
import { Pace } from "../../src/layer/pace.js";
import { punchHole, tryLock, unlock } from "../../src/native/sparse.js";
import { digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { rejectsWith } from "../support/errors.js";
import { FakeClock } from "../support/fake-clock.js";
import {
  type LayerFixture,
  type LayerFixtureOptions,
  makeLayerFixture,
  type OpenFixtureOptions,
  openFixtureLayer,
} from "../support/layer-fixture.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";

const never = new AbortController().signal;
/** A place in the blob behind the first piece that a fill hashes: spans are decoded once it has come so far. */
const LATE = 280_000;
const BOOT_ID_OFFSET = 32;
const FLAGS_OFFSET = 48;
const STATES_OFFSET = 4096;

interface SetUp {
  readonly fixture: LayerFixture;
  readonly directory: string;
  open(options?: Partial<OpenFixtureOptions>): Promise<{ layer: OpenLayer; blob: MemoryBlob; lines: string[] }>;
  /** Names of the marks, the key of `data` left out. */
  marks(): Promise<string[]>;
  file(prefix: string): Promise<string>;
}

async function setUp(t: TestContext, options: LayerFixtureOptions = {}): Promise<SetUp> {
  const fixture = await makeLayerFixture(t, { files: { small: 1000, big: 600_000, last: 70_000 }, ...options });
  const cacheDir = join(fixture.directory, "cache");
  const directory = join(cacheDir, "blobs", "sha256", hexOf(fixture.index.manifest.blob.digest));
  return {
    fixture,
    directory,
    open: async (options = {}) => {
      const blob = new MemoryBlob(fixture.gz);
      const lines: string[] = [];
      const say = (line: string) => void lines.push(line);
      const layer = await openFixtureLayer(fixture, { cacheDir, source: blob, say, ...options });
      t.after(() => layer[Symbol.asyncDispose]());
      return { layer, blob, lines };
    },
    marks: async () =>
      (await readdir(directory))
        .filter((name) => name.endsWith(".verified"))
        .map((name) => name.replace(/-[0-9a-f]{16}/, ""))
        .sort(),
    file: async (prefix) => {
      const name = (await readdir(directory)).find((each) => each.startsWith(prefix) && !each.endsWith(".verified"));
      return join(directory, name ?? assert.fail(`no ${prefix}`));
    },
  };
}

async function assertReads(layer: OpenLayer, fixture: LayerFixture): Promise<void> {
  const got = await layer.device.read(0, layer.device.sizeBytes);
  assert.ok(fixture.tar.subarray(0, got.length).equals(Buffer.from(got)), "wrong bytes");
}

/** A layer that was filled and closed. */
async function filled(t: TestContext, options: Partial<OpenFixtureOptions> = {}): Promise<SetUp> {
  const made = await setUp(t);
  const { layer } = await made.open(options);
  assert.equal((await layer.fill(new Pace(), never)).kind, "complete");
  await layer[Symbol.asyncDispose]();
  return made;
}

test("a fill fetches each byte once and ends complete and marked; then nothing is fetched ever again", async (t) => {
  const made = await setUp(t);
  const { layer, blob } = await made.open();
  assert.deepEqual([layer.complete, layer.bytesLeft], [false, blob.sizeBytes]);
  const tarDigest = made.fixture.index.manifest.tar.digest;
  assert.deepEqual(await layer.fill(new Pace(), never), { kind: "complete", tarDigest, compared: true });
  assert.equal(blob.delivered, blob.sizeBytes);
  const { complete, blobVerified, cachedSpans, spans } = layer.stats();
  assert.deepEqual([complete, blobVerified, cachedSpans, layer.bytesLeft], [true, true, spans, 0]);
  assert.deepEqual(await made.marks(), ["compressed.verified", "data.verified"]);
  await layer[Symbol.asyncDispose]();
  const again = await made.open();
  assert.equal(again.layer.complete, true);
  await again.layer.checkWholeBlob();
  await assertReads(again.layer, made.fixture);
  assert.deepEqual([again.blob.requests, again.lines], [[], []]);
});

test("a fill goes on from what earlier ones left, decoded and not", async (t) => {
  const made = await setUp(t);
  const first = await made.open();
  first.blob.beforeChunk = async (at) => {
    if (at < LATE) return;
    while (first.layer.stats().cachedSpans < 2) await setImmediate();
    throw new OcifsError("network", "connection reset");
  };
  await rejectsWith(first.layer.fill(new Pace(), never), "network");
  const { delivered } = first.blob;
  assert.ok(delivered > 0 && first.layer.stats().cachedSpans > 0);
  await first.layer[Symbol.asyncDispose]();
  assert.deepEqual(await made.marks(), []);
  const second = await made.open();
  assert.equal((await second.layer.fill(new Pace(), never)).kind, "complete");
  // Of the chunk that was cut off, less than a block.
  assert.ok(delivered + second.blob.delivered < made.fixture.gz.length + 4096, "bytes were fetched twice");
  await assertReads(second.layer, made.fixture);
});

test("what reads have brought is not fetched again by a fill", async (t) => {
  const made = await setUp(t);
  const { layer, blob } = await made.open();
  await layer.device.read(200_000, 100_000);
  await layer.fill(new Pace(), never);
  assert.equal(blob.delivered, blob.sizeBytes);
});

test("a tar that is all there needs no blob to be complete", async (t) => {
  const made = await setUp(t);
  const first = await made.open();
  await assertReads(first.layer, made.fixture);
  await first.layer[Symbol.asyncDispose]();
  const compressed = await made.file("compressed");
  await using file = await open(compressed, "r+");
  punchHole(file.fd, 0, 1 << 20);
  const { layer, blob } = await made.open();
  assert.equal((await layer.fill(new Pace(), never)).kind, "complete");
  assert.deepEqual([blob.requests.length, layer.complete, layer.stats().blobVerified], [0, true, false]);
});

test("a tar of another digest than the index recorded: refused, not marked, nothing of it served", async (t) => {
  const made = await setUp(t);
  const wrong = await made.open({ tarDigest: digestOfBytes(Buffer.from("another tar")) });
  const outcome = await wrong.layer.fill(new Pace(), never);
  assert.ok(outcome.kind === "refused" && outcome.of === "tar");
  assert.match(outcome.error.message, /its digest is sha256:[0-9a-f]{64}, the index recorded sha256:/);
  await rejectsWith(wrong.layer.device.read(0, 10), "mismatch");
  assert.match(wrong.layer.stats().problem?.sentence ?? "", /its bytes are not served any more/);
  // The blob itself is what its digest says.
  assert.deepEqual(await made.marks(), ["compressed.verified"]);
  assert.equal(wrong.layer.stats().cachedSpans, 0);
  await wrong.layer[Symbol.asyncDispose]();
  const right = await made.open();
  assert.equal((await right.layer.fill(new Pace(), never)).kind, "complete");
  assert.equal(right.blob.requests.length, 0);
});

for (const foreign of [false, true]) {
  test(`a blob of another digest is refused by its fill${foreign ? ", also through a foreign index" : ""}`, async (t) => {
    const made = await setUp(t);
    // The gzip header's time field: every span decodes, the digest does not fit.
    const other = Buffer.from(made.fixture.gz);
    other[4] = (other[4] ?? 0) ^ 1;
    const source = new MemoryBlob(other, made.fixture.index.manifest.blob.digest);
    const { layer } = await made.open({ source, foreign });
    const outcome = await layer.fill(new Pace(), never);
    assert.ok(outcome.kind === "refused" && outcome.of === "blob", JSON.stringify(outcome));
    await rejectsWith(layer.device.read(0, 10), "mismatch");
    assert.deepEqual([await made.marks(), layer.stats().cachedSpans, layer.stats().cachedBytes], [[], 0, 0]);
  });
}

test("a blob that does not decode is refused for its digest, not for its spans", async (t) => {
  const made = await setUp(t);
  const other = Buffer.from(made.fixture.gz);
  other.fill(0xa5, 60_000, 61_000);
  const source = new MemoryBlob(other, made.fixture.index.manifest.blob.digest);
  const { layer } = await made.open({ source });
  const outcome = await layer.fill(new Pace(), never);
  assert.ok(outcome.kind === "refused" && outcome.of === "blob", JSON.stringify(outcome));
});

test("a foreign index: the tar is compared with the image's diffID, padding behind the archive included", async (t) => {
  const made = await setUp(t, { paddingBytes: 8704 });
  const diffId = made.fixture.index.manifest.tar.digest;
  const { layer } = await made.open({ foreign: true, fetchDiffId: async () => diffId });
  assert.ok(layer.device.sizeBytes < made.fixture.tar.length, "the index maps the archive only");
  const outcome = await layer.fill(new Pace(), never);
  assert.ok(outcome.kind === "complete" && outcome.compared, JSON.stringify(outcome));
  assert.deepEqual(await made.marks(), ["compressed.verified", "data.verified"]);
});

test("a foreign index without a diffID: the blob's digest is all there is, and the outcome says so", async (t) => {
  const made = await setUp(t);
  const { layer } = await made.open({ foreign: true });
  const outcome = await layer.fill(new Pace(), never);
  assert.ok(outcome.kind === "complete" && !outcome.compared, JSON.stringify(outcome));
  assert.equal(layer.complete, true);
});

test("a foreign index and another diffID: refused", async (t) => {
  const made = await setUp(t);
  const other = digestOfBytes(Buffer.from("another tar"));
  const { layer } = await made.open({ foreign: true, fetchDiffId: async () => other });
  const outcome = await layer.fill(new Pace(), never);
  assert.ok(outcome.kind === "refused" && outcome.of === "tar", JSON.stringify(outcome));
  assert.match(outcome.error.message, /the image's config says/);
  assert.deepEqual(await made.marks(), ["compressed.verified"]);
});

test("spans that are evicted in the middle of a fill come again before it is complete", async (t) => {
  const made = await setUp(t);
  const { layer, blob } = await made.open();
  let evicted = false;
  blob.beforeChunk = async (at) => {
    if (evicted || at < LATE) return;
    while (layer.stats().cachedSpans < 2) await setImmediate();
    evicted = true;
    await layer.store.evict(0, 0);
  };
  blob.chunkBytes = 4096;
  assert.equal((await layer.fill(new Pace(), never)).kind, "complete");
  assert.equal(evicted, true);
  const { cachedSpans, spans, complete } = layer.stats();
  assert.deepEqual([cachedSpans, complete], [spans, true]);
  await assertReads(layer, made.fixture);
});

test("a span that another process was writing when it came here is written as well before the layer is complete", async (t) => {
  const made = await setUp(t);
  const { layer } = await made.open();
  await using other = await open(await made.file("spans-"), "r+");
  // The lock of span 1's state byte, as a writer of it holds it.
  const lock = { begin: STATES_OFFSET + 1, end: STATES_OFFSET + 2 };
  assert.equal(tryLock(other.fd, lock.begin, lock.end, "exclusive"), true);
  await assertReads(layer, made.fixture);
  const { spans, presentSpans, dataSpans } = layer.store.stats();
  assert.deepEqual([presentSpans, dataSpans], [spans, spans - 1]);
  await rejectsWith(layer.fill(new Pace(), never), "busy");
  assert.equal(layer.complete, false);
  assert.ok(!(await made.marks()).includes("data.verified"));
  unlock(other.fd, lock.begin, lock.end);
  assert.equal((await layer.fill(new Pace(), never)).kind, "complete");
  assert.equal(layer.complete, true);
});

test("a cache without room: nothing is fetched, nothing is evicted", async (t) => {
  const made = await setUp(t);
  const asked: number[] = [];
  const room = {
    ...unlimitedRoom,
    makeRoom: async (bytes: number) => {
      asked.push(bytes);
      return false;
    },
  };
  const { layer, blob } = await made.open({ room });
  const error = await rejectsWith(layer.fill(new Pace(), never), "no-space");
  assert.match(error.message, /the cache is full/);
  assert.deepEqual(asked, [made.fixture.gz.length + made.fixture.tar.length]);
  assert.equal(blob.requests.length, 0);
});

test("a read is served while a capped fill waits for its pace, and while one is held", async (t) => {
  const made = await setUp(t);
  const asleep = deferred();
  const clock = new FakeClock();
  clock.sleep = (_ms, signal) => {
    asleep.resolve();
    return new Promise((_resolve, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
  };
  const pace = new Pace({ bytesPerSecond: 1, clock });
  const { layer } = await made.open();
  const stop = new AbortController();
  const fill = rejectsWith(layer.fill(pace, stop.signal), "aborted");
  await asleep.promise;
  using _hold = pace.hold();
  await assertReads(layer, made.fixture);
  stop.abort();
  await fill;
});

test("a fill keeps to its bandwidth", async (t) => {
  const made = await setUp(t);
  const clock = new FakeClock();
  const began = clock.nowMs();
  const { layer, blob } = await made.open();
  const bytesPerSecond = 50_000;
  assert.equal((await layer.fill(new Pace({ bytesPerSecond, clock }), never)).kind, "complete");
  const leastMs = (blob.sizeBytes / bytesPerSecond) * 1000 - 100;
  assert.ok(clock.nowMs() - began >= leastMs, `${clock.nowMs() - began} ms, want ${leastMs}`);
});

test("closing a layer ends its fill", async (t) => {
  const made = await setUp(t);
  const { layer, blob } = await made.open();
  const started = deferred();
  blob.beforeChunk = (_at, { signal }) => {
    started.resolve();
    return new Promise((_resolve, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
  };
  const fill = rejectsWith(layer.fill(new Pace(), never), "aborted");
  await started.promise;
  await layer[Symbol.asyncDispose]();
  await fill;
});

test("a blob that is whole and has no mark is checked once, from the cache", async (t) => {
  const made = await setUp(t);
  const first = await made.open({ checkBlob: false });
  await assertReads(first.layer, made.fixture);
  await first.layer[Symbol.asyncDispose]();
  assert.deepEqual(await made.marks(), []);
  const second = await made.open();
  await second.layer.checkWholeBlob();
  assert.deepEqual([await made.marks(), second.blob.requests], [["compressed.verified"], []]);
  assert.equal(second.layer.stats().blobVerified, true);
  await second.layer[Symbol.asyncDispose]();
  const third = await made.open();
  await third.layer.checkWholeBlob();
  assert.deepEqual(third.lines, []);
});

test("a blob that is whole and wrong is fetched again, and refused when it is wrong then, too", async (t) => {
  const made = await setUp(t);
  const first = await made.open({ checkBlob: false });
  await assertReads(first.layer, made.fixture);
  await first.layer[Symbol.asyncDispose]();
  await using file = await open(await made.file("compressed"), "r+");
  await file.write(Uint8Array.of(0xff), 0, 1, 4);
  const other = Buffer.from(made.fixture.gz);
  other[4] = 0xff;
  const source = new MemoryBlob(other, made.fixture.index.manifest.blob.digest);
  const { layer } = await made.open({ source });
  await layer.checkWholeBlob();
  assert.deepEqual([layer.stats().cachedBytes, layer.stats().cachedSpans, layer.stats().problem], [0, 0, undefined]);
  assert.equal((await layer.fill(new Pace(), never)).kind, "refused");
  await rejectsWith(layer.device.read(0, 10), "mismatch");
  assert.deepEqual([await made.marks(), layer.stats().cachedBytes], [[], 0]);
});

test("a mark beside holes is taken away, and the holes are fetched again", async (t) => {
  const made = await filled(t);
  for (const prefix of ["compressed", "data-"]) {
    await using file = await open(await made.file(prefix), "r+");
    punchHole(file.fd, 8192, 16_384);
  }
  const { layer } = await made.open();
  assert.deepEqual([await made.marks(), layer.complete], [[], false]);
  await assertReads(layer, made.fixture);
  assert.equal((await layer.fill(new Pace(), never)).kind, "complete");
  assert.deepEqual(await made.marks(), ["compressed.verified", "data.verified"]);
});

test("a mark beside spans that are not there is taken away", async (t) => {
  const made = await filled(t);
  await using file = await open(await made.file("spans-"), "r+");
  await file.write(Uint8Array.of(0), 0, 1, 4096);
  const { layer } = await made.open();
  assert.deepEqual([await made.marks(), layer.complete], [["compressed.verified"], false]);
});

test("what is no mark is taken away", async (t) => {
  const made = await filled(t);
  for (const name of await readdir(made.directory)) {
    if (name.endsWith(".verified")) await writeFile(join(made.directory, name), "what?\n");
  }
  const { layer, lines } = await made.open();
  assert.deepEqual([await made.marks(), layer.complete, lines], [[], false, []]);
});

for (const foreign of [false, true]) {
  test(`a complete layer${foreign ? " of a foreign index" : ""} is complete after an unclean reboot`, async (t) => {
    const made = await filled(t, { foreign });
    {
      await using file = await open(await made.file("spans-"), "r+");
      await file.write(Buffer.alloc(16, 7), 0, 16, BOOT_ID_OFFSET);
      await file.write(Buffer.alloc(4), 0, 4, FLAGS_OFFSET);
    }
    const { layer, blob } = await made.open({ foreign });
    assert.equal(layer.complete, true);
    await assertReads(layer, made.fixture);
    assert.equal(blob.requests.length, 0);
  });
}

test("bytes of a checked blob that turn out to be damaged take its mark with them", async (t) => {
  const made = await filled(t);
  {
    await using file = await open(await made.file("compressed"), "r+");
    await file.write(Buffer.alloc(3000, 0xa5), 0, 3000, 60_000);
  }
  const { layer } = await made.open();
  await layer.store.evict(0, layer.stats().spans - 1);
  assert.equal(layer.complete, false);
  await assertReads(layer, made.fixture);
  while (layer.stats().blobVerified === false) {
    // What was brought for the reads may have been checked between two repairs, and then given up as a whole.
    await layer.checkWholeBlob();
    const outcome = await layer.fill(new Pace(), never).catch((error: unknown) => error);
    assert.ok(isOcifsError(outcome, "busy") || (outcome as FillOutcome).kind === "complete", String(outcome));
  }
  assert.deepEqual(await made.marks(), ["compressed.verified", "data.verified"]);
  await assertReads(layer, made.fixture);
});
