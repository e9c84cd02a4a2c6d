import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { OcifsError } from "../../src/base/errors.js";
import { MessageSplitter } from "../../src/serve/message-splitter.js";
import type { StreamEvent } from "../../src/splitfd/events.js";
import { ChunkDecoder, type Framing } from "../../src/splitfd/framing.js";
import { encodeSplitDirFd, splitDirFdFraming } from "../../src/splitfd/splitdirfdstream.js";
import { encodeSplitFd, splitFdFraming } from "../../src/splitfd/splitfdstream.js";

const name = fc
  .uint8Array({ minLength: 1, maxLength: 40 })
  .filter(
    (bytes) =>
      !bytes.includes(0) && bytes[0] !== 0x2f && !Buffer.from(bytes).toString("latin1").split("/").includes(".."),
  );
const literal = (of: "metadata" | "content" | "inline", minLength: number) =>
  fc
    .uint8Array({ minLength, maxLength: 300 })
    .map((bytes): StreamEvent[] => [
      { kind: "begin", of, sizeBytes: bytes.length },
      ...(bytes.length > 0 ? [{ kind: "bytes", bytes } as const] : []),
    ]);
const formats = [
  {
    framing: splitFdFraming,
    encode: encodeSplitFd,
    events: fc.oneof(
      literal("inline", 1),
      fc
        .nat({ max: 0xffff_ffff })
        .map((index): StreamEvent[] => [{ kind: "reference", to: { kind: "fd", index }, sizeBytes: undefined }]),
    ),
  },
  {
    framing: splitDirFdFraming,
    encode: encodeSplitDirFd,
    events: fc.oneof(
      literal("metadata", 1),
      literal("content", 0),
      fc
        .record({ name, directory: fc.nat({ max: 0xffff_ffff }), sizeBytes: fc.nat({ max: 2 ** 40 }) })
        .map(({ name, directory, sizeBytes }): StreamEvent[] => [
          { kind: "reference", to: { kind: "name", directory, name }, sizeBytes },
        ]),
    ),
  },
] as const;

/** Events with the bytes of each chunk joined, so that it does not matter how they came. */
function decoded(framing: Framing, stream: Uint8Array, cuts: readonly number[]): unknown[] {
  const decoder = new ChunkDecoder(framing);
  const events: unknown[] = [];
  let body: Uint8Array[] = [];
  const endBody = () => {
    if (body.length > 0) events.push({ kind: "bytes", bytes: new Uint8Array(Buffer.concat(body)) });
    body = [];
  };
  const ends = [...cuts.map((cut) => cut % (stream.length + 1)), stream.length].sort((a, b) => a - b);
  let at = 0;
  for (const end of ends) {
    for (const event of decoder.push(stream.subarray(at, end))) {
      if (event.kind === "bytes") {
        body.push(event.bytes);
        continue;
      }
      endBody();
      events.push(
        event.kind === "reference" && event.to.kind === "name"
          ? { ...event, to: { ...event.to, name: new Uint8Array(event.to.name) } }
          : event,
      );
    }
    at = end;
  }
  endBody();
  decoder.finish();
  return events;
}

for (const { framing, encode, events } of formats) {
  test(`${framing.name}: what is written is read, cut anywhere`, () => {
    fc.assert(
      fc.property(fc.array(events, { maxLength: 12 }), fc.array(fc.nat(), { maxLength: 8 }), (groups, cuts) => {
        const all = groups.flat();
        assert.deepEqual(decoded(framing, Buffer.concat(all.map(encode)), cuts), all);
      }),
    );
  });

  test(`${framing.name}: every stream that is cut off inside a chunk is an error`, () => {
    fc.assert(
      fc.property(events, fc.nat(), (group, cut) => {
        const stream = Buffer.concat(group.map(encode));
        const end = cut % stream.length;
        if (end === 0) return;
        assert.throws(() => decoded(framing, stream.subarray(0, end), []), OcifsError);
      }),
    );
  });

  test(`${framing.name}: any bytes whatsoever are events or an OcifsError`, () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          decoded(framing, bytes, []);
        } catch (error) {
          assert.ok(error instanceof OcifsError, String(error));
        }
      }),
    );
  });
}

test("messages are cut where their last brace is, however they come", () => {
  const separator = fc.constantFrom("", " ", "\n", "\0", "\r\n\t ");
  const message = fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 4 }).map((value) => JSON.stringify(value));
  fc.assert(
    fc.property(
      fc.array(fc.tuple(message, separator), { maxLength: 6 }),
      fc.integer({ min: 1, max: 50 }),
      (parts, size) => {
        const stream = Buffer.from(parts.flat().join(""));
        const splitter = new MessageSplitter();
        const found: string[] = [];
        for (let at = 0; at < stream.length; at += size) {
          for (const each of splitter.push(stream.subarray(at, at + size))) found.push(each.toString());
        }
        assert.deepEqual(
          found,
          parts.map(([text]) => text),
        );
        assert.equal(splitter.inMessage, false);
      },
    ),
  );
});
