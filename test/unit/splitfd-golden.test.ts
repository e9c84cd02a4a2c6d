import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { exportStream } from "../../src/content/export-layer.js";
import { headerThenContentEvents, layerEvents } from "../../src/content/layer-events.js";
import { readFileTable } from "../../src/content/layer-table.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import type { StreamEvent } from "../../src/splitfd/events.js";
import { ChunkDecoder, type Framing } from "../../src/splitfd/framing.js";
import { encodeSplitDirFd, splitDirFdFraming } from "../../src/splitfd/splitdirfdstream.js";
import { encodeSplitFd, splitFdFraming } from "../../src/splitfd/splitfdstream.js";
import { type Reading, TarAssembler, type TarSink } from "../../src/splitfd/tar-assembler.js";
import type { TarEntry } from "../../src/tar/entry.js";
import { rejectsWith, throwsWith } from "../support/errors.js";
import { sharedFixture } from "../support/fixtures.js";
import { MemoryDevice } from "../support/memory-device.js";

const fixture = (name: string) => readFile(sharedFixture(`splitfdstream/${name}`));
const signal = new AbortController().signal;
/** The contents of `d/s` and `d/b`, in the order of their descriptors. */
const contents = [Buffer.from("hi\n"), Buffer.alloc(700, "A")];
const named = new Map([
  ["d/s", contents[0]],
  ["d/b", contents[1]],
]);

/** The tar that a stream stands for, when it comes in pieces of `pieceBytes`. */
async function tarOf(stream: Uint8Array, framing: Framing, reading: Reading, pieceBytes: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  const assembler = new TarAssembler(
    {
      entry: () => undefined,
      bytes: async (bytes) => void parts.push(Buffer.from(bytes)),
      reference: async (to, entry) => {
        const content = to.kind === "fd" ? contents[to.index] : named.get(Buffer.from(to.name).toString());
        assert.equal(content?.length, entry.sizeBytes);
        parts.push(content ?? Buffer.alloc(0));
      },
    },
    reading,
  );
  const decoder = new ChunkDecoder(framing);
  for (let at = 0; at < stream.length; at += pieceBytes) {
    for (const event of decoder.push(stream.subarray(at, at + pieceBytes))) await assembler.take(event);
  }
  decoder.finish();
  await assembler.finish();
  return Buffer.concat(parts);
}

async function encoded(
  events: AsyncIterable<StreamEvent>,
  encode: (event: StreamEvent) => Uint8Array,
): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const event of events) parts.push(encode(event));
  return Buffer.concat(parts);
}

const vectors = [
  { name: "v0_preserving.bin", framing: splitFdFraming, reading: "tar-preserving", tar: "v.tar" },
  { name: "go_v0.bin", framing: splitFdFraming, reading: "header-then-content", tar: "v.tar" },
  { name: "go_v0_inline.bin", framing: splitFdFraming, reading: "header-then-content", tar: "v.tar" },
  { name: "sdfd.bin", framing: splitDirFdFraming, reading: "tar-preserving", tar: "v.tar" },
  { name: "sdfd_inl.bin", framing: splitDirFdFraming, reading: "tar-preserving", tar: "v.tar" },
] as const;

for (const { name, framing, reading, tar } of vectors) {
  test(`${name} is ${tar}, in pieces of any size`, async () => {
    const wanted = digestOfBytes(await fixture(tar));
    const stream = await fixture(name);
    for (const pieceBytes of [1, 7, 512, stream.length]) {
      assert.equal(digestOfBytes(await tarOf(stream, framing, reading, pieceBytes)), wanted, `${pieceBytes}`);
    }
  });
}

test("go_v0_gnu.bin holds headers that its writer made anew, and the same files", async () => {
  const tar = await tarOf(await fixture("go_v0_gnu.bin"), splitFdFraming, "header-then-content", 100);
  assert.deepEqual([...(await readFileTable(new MemoryDevice(tar))).sizes], [3, 700]);
});

test("go_v0_pax.bin has PAX headers and the header of a file in one chunk", async () => {
  const entries: TarEntry[] = [];
  const references: unknown[] = [];
  const sink: TarSink = {
    entry: (entry) => void entries.push(entry),
    bytes: async () => undefined,
    reference: async (to) => void references.push(to),
  };
  const assembler = new TarAssembler(sink, "header-then-content");
  for (const event of new ChunkDecoder(splitFdFraming).push(await fixture("go_v0_pax.bin")))
    await assembler.take(event);
  await assembler.finish();
  assert.deepEqual(
    entries.map(({ path }) => Buffer.from(path).toString()),
    ["f"],
  );
  assert.deepEqual(references, [{ kind: "fd", index: 0 }]);
});

test("the encoders make the vectors", async () => {
  const tar = await fixture("v.tar");
  const device = new MemoryDevice(tar);
  const table = await readFileTable(device);
  const fd = {
    device,
    table,
    referenceOf: (index: number) => ({ kind: "fd", index }) as const,
    divideContent: true,
    signal,
  };
  assert.deepEqual(await encoded(headerThenContentEvents(fd), encodeSplitFd), await fixture("go_v0.bin"));
  const inline = {
    ...fd,
    referenceOf: (index: number) => (index === 0 ? ({ kind: "fd", index } as const) : undefined),
  };
  assert.deepEqual(await encoded(headerThenContentEvents(inline), encodeSplitFd), await fixture("go_v0_inline.bin"));
  // Where headers and padding are cut into chunks is the writer's choice: the vectors have more chunks.
  const preserving = await encoded(layerEvents(fd), encodeSplitFd);
  assert.deepEqual(await tarOf(preserving, splitFdFraming, "tar-preserving", 99), tar);
  assert.equal(preserving.length, (await fixture("v0_preserving.bin")).length - 2 * 8);
  const name = (index: number) =>
    ({ kind: "name", directory: 0, name: Buffer.from(index === 0 ? "d/s" : "d/b") }) as const;
  const directory = await encoded(layerEvents({ ...fd, referenceOf: name }), encodeSplitDirFd);
  assert.deepEqual(await tarOf(directory, splitDirFdFraming, "tar-preserving", 99), tar);
  assert.equal(directory.length, (await fixture("sdfd.bin")).length - 5);
});

for (const name of ["v.tar", "gnu.tar", "pax.tar", "sp_gnu.tar", "sp_pax.tar"]) {
  for (const format of ["splitfdstream", "splitdirfdstream"] as const) {
    test(`${name} comes out of ${format} byte for byte, holes and all`, async () => {
      const tar = await fixture(name);
      const parts: Uint8Array[] = [];
      const options = { device: new MemoryDevice(tar), format, store: undefined, diffId: digestOfBytes(tar), signal };
      await exportStream(options, async (bytes) => void parts.push(bytes));
      const framing = format === "splitfdstream" ? splitFdFraming : splitDirFdFraming;
      assert.deepEqual(await tarOf(Buffer.concat(parts), framing, "tar-preserving", 1000), tar);
    });
  }
}

test("a layer that is not what its diffID says is no export", async () => {
  const device = new MemoryDevice(await fixture("v.tar"));
  const options = {
    device,
    format: "splitfdstream",
    store: undefined,
    diffId: digestOfBytes(Buffer.from("other")),
    signal,
  } as const;
  await rejectsWith(
    exportStream(options, async () => undefined),
    "mismatch",
  );
});

function decode(framing: Framing, bytes: Uint8Array): StreamEvent[] {
  const decoder = new ChunkDecoder(framing);
  const events = [...decoder.push(bytes)];
  decoder.finish();
  return events;
}

const i64 = (value: bigint) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(value);
  return bytes;
};

test("splitfdstream at its edges", () => {
  for (let cut = 1; cut < 8; cut++) throwsWith(() => decode(splitFdFraming, i64(-3n).subarray(0, cut)), "corrupt");
  throwsWith(() => decode(splitFdFraming, Buffer.concat([i64(-3n), Buffer.from("ab")])), "corrupt");
  throwsWith(() => decode(splitFdFraming, i64(-(2n ** 63n))), "limit");
  throwsWith(() => decode(splitFdFraming, i64(BigInt(-limits.splitChunkBytes) - 1n)), "limit");
  const [largest] = [...new ChunkDecoder(splitFdFraming).push(i64(BigInt(-limits.splitChunkBytes)))];
  assert.deepEqual(largest, { kind: "begin", of: "inline", sizeBytes: limits.splitChunkBytes });
  throwsWith(() => decode(splitFdFraming, i64(2n ** 32n)), "corrupt");
  assert.equal(decode(splitFdFraming, i64(2n ** 32n - 1n)).length, 1);
  assert.deepEqual(decode(splitFdFraming, i64(0n)), [
    { kind: "reference", to: { kind: "fd", index: 0 }, sizeBytes: undefined },
  ]);
  assert.equal(encodeSplitFd({ kind: "begin", of: "metadata", sizeBytes: 0 }).length, 0);
  throwsWith(() => encodeSplitFd({ kind: "begin", of: "content", sizeBytes: limits.splitChunkBytes + 1 }), "limit");
});

/** A FileBackedData chunk. */
function fileChunk(name: Uint8Array, sizeBytes = 3n, nameBytes = name.length): Buffer {
  const header = Buffer.alloc(17);
  header[0] = 2;
  header.writeBigUInt64LE(sizeBytes, 1);
  header.writeUInt32LE(nameBytes, 13);
  return Buffer.concat([header, name]);
}

test("splitdirfdstream at its edges", () => {
  const good = fileChunk(Buffer.from([0x61, 0xff, 0x2f, 0x2e, 0x2f, 0x2f, 0x62]));
  assert.equal(decode(splitDirFdFraming, good).length, 1);
  for (let cut = 1; cut < good.length; cut++)
    throwsWith(() => decode(splitDirFdFraming, good.subarray(0, cut)), "corrupt");
  throwsWith(() => decode(splitDirFdFraming, Uint8Array.of(3, 0, 0, 0, 0)), "corrupt");
  for (const name of ["", "/a", "..", "a/..", "../a", "a/../b", "a\0b"]) {
    throwsWith(() => decode(splitDirFdFraming, fileChunk(Buffer.from(name))), "corrupt");
  }
  assert.equal(decode(splitDirFdFraming, fileChunk(Buffer.alloc(limits.splitNameBytes, "n"))).length, 1);
  throwsWith(() => decode(splitDirFdFraming, fileChunk(Buffer.alloc(0), 3n, limits.splitNameBytes + 1)), "limit");
  throwsWith(() => decode(splitDirFdFraming, fileChunk(Buffer.from("a"), 2n ** 63n)), "limit");
  const tooLong = Buffer.alloc(5);
  tooLong.writeUInt32LE(limits.splitChunkBytes + 1, 1);
  throwsWith(() => decode(splitDirFdFraming, tooLong), "limit");
  assert.deepEqual(decode(splitDirFdFraming, Uint8Array.of(1, 0, 0, 0, 0)), [
    { kind: "begin", of: "content", sizeBytes: 0 },
  ]);
  assert.equal(encodeSplitDirFd({ kind: "begin", of: "metadata", sizeBytes: 0 }).length, 0);
});

test("a content where the tar has none, or one of another size, is refused", async () => {
  const v = await fixture("v.tar");
  const literal = (from: number, to: number) => Buffer.concat([i64(BigInt(from - to)), v.subarray(from, to)]);
  const read = (...parts: Buffer[]) => tarOf(Buffer.concat(parts), splitFdFraming, "tar-preserving", 4096);
  await rejectsWith(read(i64(0n)), "corrupt");
  await rejectsWith(read(literal(0, 512), i64(0n)), "corrupt");
  await rejectsWith(read(literal(0, 1025), i64(0n)), "corrupt");
  await rejectsWith(read(literal(0, 1024), i64(0n), i64(0n)), "corrupt");
  await rejectsWith(read(literal(0, 1024)), "corrupt");
  const wrongSize = Buffer.concat([Buffer.of(0, 0, 4, 0, 0), v.subarray(0, 1024), fileChunk(Buffer.from("d/s"), 4n)]);
  await rejectsWith(tarOf(wrongSize, splitDirFdFraming, "tar-preserving", 4096), "corrupt");
});

test("header-then-content takes one entry a chunk, and its content whole", async () => {
  const v = await fixture("v.tar");
  const literal = (from: number, to: number) => Buffer.concat([i64(BigInt(from - to)), v.subarray(from, to)]);
  const read = (...parts: Buffer[]) => tarOf(Buffer.concat(parts), splitFdFraming, "header-then-content", 4096);
  await rejectsWith(read(literal(0, 1024)), "corrupt");
  await rejectsWith(read(literal(512, 1024)), "corrupt");
  await rejectsWith(read(literal(512, 1024), literal(1024, 1026)), "corrupt");
  await rejectsWith(read(literal(0, 511)), "corrupt");
  assert.equal((await read(literal(0, 512))).length, 512 + 1024);
});
