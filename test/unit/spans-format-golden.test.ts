import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { isOcifsError } from "../../src/base/errors.js";
import { closeFd, openFd, truncateFd } from "../../src/cache/raw-file.js";
import { SPAN_ABSENT, SPAN_PRESENT, SPAN_SUSPECT, SpanStore } from "../../src/native/layer.js";
import { tempDirectory } from "../support/temp.js";

/** The layer: three spans of 10, 15 and 7 bytes, a plain tar as far as the store is concerned. */
const layer = Buffer.from("0123456789abcdefghijklmnoPQRSTUV", "latin1");
const outStarts = Float64Array.of(0, 10, 25, 32);
const partition = Uint8Array.from({ length: 32 }, (_, i) => 0xa0 + i);
const boot = (byte: number) => new Uint8Array(16).fill(byte);

const headerBytes = 4096;
const flagsOffset = 48;
const generationOffset = 56;

/** Bytes 0 to 95 as docs/FORMATS.md has them. */
const goldenHeader = [
  "4f4349465353504e", // magic "OCIFSSPN"
  "01000000", // version
  "00100000", // header bytes
  "0300000000000000", // span count
  "2000000000000000", // bytes of the layer
  "11".repeat(16), // boot id
  "00000000", // flags
  "00000000", // reserved
  "0000000000000000", // eviction generation
  Buffer.from(partition).toString("hex"),
].join("");

class Files {
  readonly dataPath: string;
  readonly spansPath: string;
  readonly blobPath: string;

  constructor(directory: string) {
    this.dataPath = join(directory, "data");
    this.spansPath = join(directory, "spans");
    this.blobPath = join(directory, "blob");
  }

  static async make(t: TestContext): Promise<Files> {
    const files = new Files(await tempDirectory(t));
    await writeFile(files.blobPath, layer);
    return files;
  }

  async open(bootId: Uint8Array, identity: Uint8Array = partition): Promise<SpanStore> {
    const dataFd = await openFd(this.dataPath, "create");
    await truncateFd(dataFd, layer.length);
    const spansFd = await openFd(this.spansPath, "create");
    return new SpanStore({ dataFd, spansFd, outStarts, partition: identity, bootId, memoryBytes: 1 << 20 });
  }

  async fill(store: SpanStore, span: number): Promise<void> {
    const fd = await openFd(this.blobPath, "read");
    try {
      const degraded = await store.fill({
        span,
        gzip: false,
        fd,
        begin: outStarts[span] ?? 0,
        end: outStarts[span + 1] ?? 0,
        bits: 0,
        atHeader: false,
        last: false,
        zinfoFd: -1,
        windowOffset: -1,
        nextWindowOffset: -1,
        digest: undefined,
        discard: false,
        onlyMemory: false,
      });
      assert.equal(degraded, undefined);
    } finally {
      await closeFd(fd);
    }
  }

  get header(): Buffer {
    return readFileSync(this.spansPath).subarray(0, headerBytes);
  }
  get states(): number[] {
    return [...readFileSync(this.spansPath).subarray(headerBytes)];
  }
  get flags(): number {
    return this.header.readUInt32LE(flagsOffset);
  }
}

test("a new spans file has the documented header, and one state byte a span behind it", async (t) => {
  const files = await Files.make(t);
  const store = await files.open(boot(0x11));
  t.after(() => store.close());
  assert.equal(statSync(files.spansPath).size, headerBytes + 3);
  assert.equal(files.header.subarray(0, 96).toString("hex"), goldenHeader);
  assert.ok(files.header.subarray(96).every((byte) => byte === 0));
  assert.deepEqual(files.states, [SPAN_ABSENT, SPAN_ABSENT, SPAN_ABSENT]);
});

test("a committed span is one byte in spans and its own bytes in data", async (t) => {
  const files = await Files.make(t);
  const store = await files.open(boot(0x11));
  t.after(() => store.close());
  await files.fill(store, 1);
  assert.deepEqual(files.states, [SPAN_ABSENT, SPAN_PRESENT, SPAN_ABSENT]);
  assert.equal(files.header.subarray(0, 96).toString("hex"), goldenHeader);
  const data = readFileSync(files.dataPath);
  assert.equal(data.length, layer.length);
  assert.deepEqual(data.subarray(10, 25), layer.subarray(10, 25));
});

test("eviction raises the generation, clears the state and leaves the rest", async (t) => {
  const files = await Files.make(t);
  const store = await files.open(boot(0x11));
  t.after(() => store.close());
  for (const span of [0, 1, 2]) await files.fill(store, span);
  await store.evict(1, 1);
  assert.deepEqual(files.states, [SPAN_PRESENT, SPAN_ABSENT, SPAN_PRESENT]);
  assert.equal(files.header.readBigUInt64LE(generationOffset), 1n);
});

test("the clean flag is set by the last user's flush and cleared by the next open", async (t) => {
  const files = await Files.make(t);
  const first = await files.open(boot(0x11));
  await files.fill(first, 0);
  const second = await files.open(boot(0x11));
  await first.flushClean();
  assert.equal(files.flags, 0, "another store is open");
  first.close();
  await second.flushClean();
  assert.equal(files.flags, 1);
  second.close();
  const third = await files.open(boot(0x11));
  t.after(() => third.close());
  assert.equal(files.flags, 0);
});

for (const { clean, state } of [
  { clean: true, state: SPAN_PRESENT },
  { clean: false, state: SPAN_SUSPECT },
]) {
  test(`after a reboot ${clean ? "with" : "without"} the clean flag a present span is ${clean ? "present" : "suspect"}`, async (t) => {
    const files = await Files.make(t);
    const before = await files.open(boot(0x11));
    await files.fill(before, 2);
    if (clean) await before.flushClean();
    before.close();
    const after = await files.open(boot(0x22));
    t.after(() => after.close());
    assert.deepEqual(files.states, [SPAN_ABSENT, SPAN_ABSENT, state]);
    assert.equal(after.present(2), clean);
    assert.equal(files.header.subarray(32, 48).toString("hex"), "22".repeat(16));
  });
}

test("a file of another span table is refused and left as it is", async (t) => {
  const files = await Files.make(t);
  const store = await files.open(boot(0x11));
  t.after(() => store.close());
  await files.fill(store, 0);
  await assert.rejects(files.open(boot(0x11), new Uint8Array(32)), (error) => isOcifsError(error, "mismatch"));
  assert.equal(files.header.subarray(0, 96).toString("hex"), goldenHeader);
  assert.deepEqual(files.states, [SPAN_PRESENT, SPAN_ABSENT, SPAN_ABSENT]);
});
