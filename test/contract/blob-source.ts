import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { BlobSource } from "../../src/blob/blob-source.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";

/** Runs `use` with a source of these bytes, and cleans up what it made. */
export type WithBlobSource = (bytes: Uint8Array, use: (source: BlobSource) => Promise<void>) => Promise<void>;

/** What every BlobSource must do. */
export function testBlobSource(name: string, withSource: WithBlobSource): void {
  const bytes = Buffer.from(Array.from({ length: 1_700_001 }, (_, index) => (index * 31 + (index >> 8)) & 0xff));

  describe(`BlobSource contract: ${name}`, () => {
    test("says its digest, its size and what it is", async () => {
      await withSource(bytes, async (source) => {
        assert.equal(source.digest, digestOfBytes(bytes));
        assert.equal(source.sizeBytes, bytes.length);
        assert.match(source.description, /\S/);
      });
    });

    const last = bytes.length - 1;
    for (const [offset, length] of [
      [0, 0],
      [0, 1],
      [0, 512],
      [1, 511],
      [4095, 2],
      [262_143, 262_146],
      [0, bytes.length],
      [1, bytes.length - 1],
      [last, 1],
      [bytes.length, 0],
    ] as const) {
      test(`gives exactly ${length} bytes at ${offset}`, async () => {
        await withSource(bytes, async (source) => {
          const found = await collect(source.fetchRange(offset, length));
          assert.ok(found.equals(bytes.subarray(offset, offset + length)));
        });
      });
    }

    test("gives chunks that are not empty and stay as they are", async () => {
      await withSource(bytes, async (source) => {
        const chunks: Uint8Array[] = [];
        for await (const chunk of source.fetchRange(0, bytes.length)) {
          assert.ok(chunk.length > 0);
          chunks.push(chunk);
        }
        assert.ok(Buffer.concat(chunks).equals(bytes));
      });
    });

    for (const [offset, length] of [
      [-1, 1],
      [0, -1],
      [0, bytes.length + 1],
      [bytes.length, 1],
      [bytes.length + 1, 0],
      [0.5, 1],
      [0, Number.NaN],
      [Number.MAX_SAFE_INTEGER, 1],
    ] as const) {
      test(`refuses ${length} bytes at ${offset} as usage`, async () => {
        await withSource(bytes, async (source) => {
          await rejectsWith(collect(source.fetchRange(offset, length)), "usage");
        });
      });
    }

    test("serves many ranges at once, of either priority", async () => {
      await withSource(bytes, async (source) => {
        const ranges = Array.from({ length: 24 }, (_, index) => ({ offset: index * 29_000, length: 30_000 }));
        const found = await Promise.all(
          ranges.map(({ offset, length }, index) =>
            collect(source.fetchRange(offset, length, { priority: index % 2 === 0 ? "demand" : "prefetch" })),
          ),
        );
        for (const [index, { offset, length }] of ranges.entries()) {
          assert.ok(found[index]?.equals(bytes.subarray(offset, offset + length)));
        }
      });
    });

    test("can be left in the middle, and goes on serving", async () => {
      await withSource(bytes, async (source) => {
        for (let round = 0; round < 20; round++) {
          for await (const chunk of source.fetchRange(round, bytes.length - round)) {
            assert.equal(chunk[0], bytes[round]);
            break;
          }
        }
        assert.ok((await collect(source.fetchRange(5, 5))).equals(bytes.subarray(5, 10)));
      });
    });

    test("is cancelled by a signal, before and in the middle", async () => {
      await withSource(bytes, async (source) => {
        await rejectsWith(collect(source.fetchRange(0, 10, { signal: AbortSignal.abort() })), "aborted");
        const controller = new AbortController();
        const reading = (async () => {
          for await (const chunk of source.fetchRange(0, bytes.length, { signal: controller.signal })) {
            assert.ok(chunk.length < bytes.length, "the blob is too small for this test");
            controller.abort();
          }
        })();
        await rejectsWith(reading, "aborted");
      });
    });

    test("is aborted once closed, and can be closed twice", async () => {
      await withSource(bytes, async (source) => {
        await collect(source.fetchRange(0, 10));
        await source[Symbol.asyncDispose]();
        await source[Symbol.asyncDispose]();
        await rejectsWith(collect(source.fetchRange(0, 10)), "aborted");
      });
    });

    test("may be empty", async () => {
      await withSource(Buffer.alloc(0), async (source) => {
        assert.equal(source.sizeBytes, 0);
        assert.equal((await collect(source.fetchRange(0, 0))).length, 0);
        await rejectsWith(collect(source.fetchRange(0, 1)), "usage");
      });
    });
  });
}
