import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import type { BlobSource } from "../../src/blob/blob-source.js";
import type { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightStream, type InFlightStreamOptions } from "../../src/layer/in-flight-stream.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";

const KIB = 1024;
const chunkBytes = 64 * KIB;

/** Runs `use` with an empty cache file of this size, and cleans up. */
export type WithCacheFile = (sizeBytes: number, use: (file: CompressedFile) => Promise<void>) => Promise<void>;

interface Made {
  readonly blob: MemoryBlob;
  readonly file: CompressedFile;
  readonly stream: InFlightStream;
  /** Another stream over the same file. */
  again(source?: BlobSource, options?: InFlightStreamOptions): InFlightStream;
}

/** What a stream must do, whatever its file is. */
export function testInFlightStream(name: string, withFile: WithCacheFile): void {
  async function withStream(blob: MemoryBlob, use: (made: Made) => Promise<void>): Promise<void> {
    await withFile(blob.sizeBytes, async (file) => {
      const streams: InFlightStream[] = [];
      const again = (source: BlobSource = blob, options: InFlightStreamOptions = {}) => {
        const stream = InFlightStream.open({ source, file, chunkBytes, ...options });
        streams.push(stream);
        return stream;
      };
      try {
        await use({ blob, file, stream: again(), again });
      } finally {
        for (const stream of streams) await stream[Symbol.asyncDispose]();
      }
    });
  }

  /** A blob whose delivery stops before `position` until the gate opens. */
  function gatedBlob(sizeBytes: number, position: number) {
    const blob = new MemoryBlob(randomBytes(sizeBytes));
    const gate = deferred();
    const stuck = deferred();
    blob.beforeChunk = async (at) => {
      if (at < position) return;
      stuck.resolve();
      await gate.promise;
    };
    return { blob, gate, stuck };
  }

  const fetchedBytes = (blob: MemoryBlob) => blob.requests.reduce((sum, request) => sum + request.length, 0);
  const bytesOf = (blob: MemoryBlob, from = 0, to = blob.sizeBytes) => Buffer.from(blob.bytes.subarray(from, to));

  describe(`in-flight stream contract: ${name}`, () => {
    for (const sizeBytes of [
      1,
      4095,
      4096,
      4097,
      chunkBytes - 1,
      chunkBytes,
      chunkBytes + 1,
      4 * chunkBytes,
      300_001,
    ]) {
      test(`brings a blob of ${sizeBytes} bytes in one request, and ends`, async () => {
        await withStream(new MemoryBlob(randomBytes(sizeBytes)), async ({ blob, stream, file }) => {
          const followed = collect(stream.follow());
          await stream.finish();
          assert.deepEqual(await followed, bytesOf(blob));
          assert.deepEqual(blob.requests, [{ offset: 0, length: sizeBytes }]);
          assert.equal(stream.complete, true);
          assert.equal(stream.frontierBytes, sizeBytes);
          assert.ok(file.has({ begin: 0, end: sizeBytes }));
          assert.deepEqual(await collect(stream.follow()), bytesOf(blob), "a joiner after the end");
        });
      });
    }

    test("brings a blob of no bytes", async () => {
      await withStream(new MemoryBlob(new Uint8Array(0)), async ({ blob, stream }) => {
        assert.equal((await collect(stream.follow())).length, 0);
        await stream.finish();
        assert.equal((await stream.read(0, 0)).length, 0);
        assert.equal(stream.complete, true);
        assert.deepEqual(blob.requests, []);
      });
    });

    test("refuses the digest of something else for no bytes", async () => {
      const blob = new MemoryBlob(new Uint8Array(0), `sha256:${"0".repeat(64)}`);
      await withStream(blob, async ({ stream }) => {
        await rejectsWith(collect(stream.follow()), "mismatch");
        await rejectsWith(stream.finish(), "mismatch");
        assert.equal(stream.complete, false);
      });
    });

    for (const size of [1, 5000, chunkBytes, 1 << 20]) {
      test(`serves followers in chunks of ${size}`, async () => {
        await withStream(new MemoryBlob(randomBytes(300_001)), async ({ blob, again }) => {
          const from = size === 1 ? 299_900 : 17;
          const stream = again(blob, { chunkBytes: size });
          const lengths: number[] = [];
          const parts: Uint8Array[] = [];
          for await (const chunk of stream.follow({ from })) {
            lengths.push(chunk.length);
            parts.push(chunk);
          }
          assert.deepEqual(Buffer.concat(parts), bytesOf(blob, from));
          assert.ok(lengths.every((length) => length > 0 && length <= size));
        });
      });
    }

    test("serves many followers from one download, each from where it likes", async () => {
      await withStream(new MemoryBlob(randomBytes(300_001)), async ({ blob, stream }) => {
        const starts = Array.from({ length: 50 }, (_, index) => index * 6000);
        const all = await Promise.all(starts.map((from) => collect(stream.follow({ from }))));
        for (const [index, from] of starts.entries())
          assert.ok(all[index]?.equals(bytesOf(blob, from)), `from ${from}`);
        assert.equal(fetchedBytes(blob), blob.sizeBytes);
      });
    });

    test("serves a late joiner from the start, out of the file", async () => {
      const { blob, gate, stuck } = gatedBlob(10 * chunkBytes, 5 * chunkBytes);
      await withStream(blob, async ({ stream }) => {
        const early = collect(stream.follow());
        await stuck.promise;
        const late = stream.follow();
        for (let at = 0; at < 5 * chunkBytes; at += chunkBytes) {
          assert.deepEqual((await late.next()).value, bytesOf(blob, at, at + chunkBytes));
        }
        gate.resolve();
        assert.deepEqual(await collect(late), bytesOf(blob, 5 * chunkBytes));
        assert.deepEqual(await early, bytesOf(blob));
        assert.equal(fetchedBytes(blob), blob.sizeBytes);
      });
    });

    test("a reader ahead of the frontier waits for its own bytes only", async () => {
      const { blob, gate, stuck } = gatedBlob(10 * chunkBytes, 5 * chunkBytes);
      await withStream(blob, async ({ stream }) => {
        const whole = stream.finish();
        const near = stream.read(3 * chunkBytes - 100, 300);
        await stuck.promise;
        assert.deepEqual(await near, bytesOf(blob, 3 * chunkBytes - 100, 3 * chunkBytes + 200));
        assert.equal(stream.complete, false);
        const ahead = stream.read(7 * chunkBytes, 10);
        gate.resolve();
        assert.deepEqual(await ahead, bytesOf(blob, 7 * chunkBytes, 7 * chunkBytes + 10));
        await whole;
        assert.equal(fetchedBytes(blob), blob.sizeBytes);
      });
    });

    test("a cancelled reader leaves at once, the download goes on", async () => {
      const { blob, gate, stuck } = gatedBlob(10 * chunkBytes, 2 * chunkBytes);
      await withStream(blob, async ({ stream }) => {
        const abort = new AbortController();
        const { signal } = abort;
        const left = [
          collect(stream.follow({ signal })),
          stream.read(5 * chunkBytes, 5, signal),
          stream.finish(signal),
          collect(stream.follow({ from: 9 * chunkBytes, signal })),
        ].map((promise) => rejectsWith(promise, "aborted"));
        const stays = collect(stream.follow());
        await stuck.promise;
        abort.abort();
        await Promise.all(left);
        await rejectsWith(stream.read(0, 1, signal), "aborted");
        await rejectsWith(collect(stream.follow({ signal })), "aborted");
        gate.resolve();
        assert.deepEqual(await stays, bytesOf(blob));
        assert.equal(fetchedBytes(blob), blob.sizeBytes);
      });
    });

    test("a follower that is slow, or leaves, holds nobody up", async () => {
      await withStream(new MemoryBlob(randomBytes(8 * chunkBytes)), async ({ blob, stream }) => {
        const slow = stream.follow();
        await slow.next();
        for await (const chunk of stream.follow()) {
          assert.equal(chunk.length, chunkBytes);
          break;
        }
        assert.deepEqual(await collect(stream.follow()), bytesOf(blob));
        await stream.finish();
        assert.deepEqual(await collect(slow), bytesOf(blob, chunkBytes), "the slow one finds everything in the file");
      });
    });

    test("a failure of the source reaches everyone; the next try fetches the rest only", async () => {
      await withStream(new MemoryBlob(randomBytes(10 * chunkBytes)), async ({ blob, stream }) => {
        blob.beforeChunk = async (at) => {
          if (at >= 6 * chunkBytes) throw new OcifsError("network", "connection reset");
        };
        const waiting = [
          stream.finish(),
          collect(stream.follow()),
          collect(stream.follow({ from: 8 * chunkBytes })),
          stream.read(7 * chunkBytes, 1),
        ];
        await Promise.all(waiting.map((promise) => rejectsWith(promise, "network")));
        assert.equal(stream.complete, false);
        assert.equal(stream.frontierBytes, 6 * chunkBytes);
        blob.beforeChunk = async () => undefined;
        blob.requests.length = 0;
        await stream.finish();
        assert.deepEqual(blob.requests, [{ offset: 6 * chunkBytes, length: 4 * chunkBytes }]);
        assert.deepEqual(await collect(stream.follow()), bytesOf(blob));
      });
    });

    test("another source takes over from what is there", async () => {
      await withStream(new MemoryBlob(randomBytes(10 * chunkBytes)), async ({ blob, stream, again }) => {
        blob.beforeChunk = async (at) => {
          if (at >= 6 * chunkBytes) throw new OcifsError("network", "connection reset");
        };
        await rejectsWith(stream.finish(), "network");
        const mirror = new MemoryBlob(blob.bytes);
        const next = again(mirror);
        assert.deepEqual(await collect(next.follow()), bytesOf(blob));
        assert.deepEqual(mirror.requests, [{ offset: 6 * chunkBytes, length: 4 * chunkBytes }]);
      });
    });

    test("what is there already is not fetched again, wherever it is", async () => {
      await withStream(new MemoryBlob(randomBytes(10 * chunkBytes + 77)), async ({ blob, file, stream }) => {
        const there = [
          [0, 4096],
          [8192, 12288],
          [chunkBytes, 3 * chunkBytes],
          [7 * chunkBytes + 4096, 9 * chunkBytes],
        ] as const;
        for (const [begin, end] of there) await file.writer({ begin, end }).append(blob.bytes.subarray(begin, end));
        assert.equal(stream.frontierBytes, 4096);
        const [followed] = await Promise.all([collect(stream.follow()), stream.finish()]);
        assert.deepEqual(followed, bytesOf(blob));
        assert.deepEqual(blob.requests, [
          { offset: 4096, length: 4096 },
          { offset: 12288, length: chunkBytes - 12288 },
          { offset: 3 * chunkBytes, length: 4 * chunkBytes + 4096 },
          { offset: 9 * chunkBytes, length: chunkBytes + 77 },
        ]);
      });
    });

    test("a whole file is checked without any request", async () => {
      await withStream(new MemoryBlob(randomBytes(300_001)), async ({ blob, file, stream }) => {
        await file.writer({ begin: 0, end: blob.sizeBytes }).append(blob.bytes);
        await stream.finish();
        assert.equal(stream.complete, true);
        assert.deepEqual(blob.requests, []);
      });
    });

    test("a wrong digest: nobody is told it is complete, nothing is kept, a retry starts afresh", async () => {
      const good = randomBytes(6 * chunkBytes);
      const bad = Buffer.from(good);
      bad[3 * chunkBytes] = (bad[3 * chunkBytes] ?? 0) ^ 1;
      await withStream(new MemoryBlob(good), async ({ blob, file, again }) => {
        const wrong = new MemoryBlob(bad, blob.digest);
        const stream = again(wrong);
        const seen: Uint8Array[] = [];
        const follower = (async () => {
          for await (const chunk of stream.follow()) seen.push(chunk);
        })();
        const slow = stream.follow();
        await slow.next();
        await rejectsWith(follower, "mismatch");
        await rejectsWith(stream.finish(), "mismatch");
        await rejectsWith(slow.next(), "mismatch");
        assert.ok(Buffer.concat(seen).length < good.length, "the last chunk is withheld");
        assert.equal(stream.complete, false);
        assert.equal(file.presentBytes(), 0);
        assert.equal(stream.frontierBytes, 0);
        const right = again(blob);
        assert.deepEqual(await collect(right.follow()), bytesOf(blob));
        assert.equal(fetchedBytes(blob), blob.sizeBytes);
      });
    });

    test("the same stream starts afresh after a wrong digest, and reads nothing before", async () => {
      await withStream(new MemoryBlob(randomBytes(6 * chunkBytes)), async ({ blob, stream }) => {
        const right = Buffer.from(blob.bytes);
        blob.bytes.fill(0, 5, 10);
        await rejectsWith(stream.finish(), "mismatch");
        await rejectsWith(stream.read(0, 10), "mismatch");
        blob.bytes.set(right);
        assert.deepEqual(await collect(stream.follow()), right);
        assert.deepEqual(await stream.read(0, 10), right.subarray(0, 10));
      });
    });

    test("a source without ranges is read in one pass, whatever is there and wherever readers are", async () => {
      await withStream(new MemoryBlob(randomBytes(20 * chunkBytes)), async ({ blob, file, stream }) => {
        blob.rangesSupported = false;
        for (const begin of [2 * chunkBytes, 5 * chunkBytes, 9 * chunkBytes]) {
          await file.writer({ begin, end: begin + chunkBytes }).append(blob.bytes.subarray(begin, begin + chunkBytes));
        }
        const ahead = stream.read(18 * chunkBytes, 100);
        assert.deepEqual(await collect(stream.follow()), bytesOf(blob));
        assert.deepEqual(await ahead, bytesOf(blob, 18 * chunkBytes, 18 * chunkBytes + 100));
        assert.deepEqual(blob.requests, [{ offset: 0, length: blob.sizeBytes }]);
      });
    });

    test("a source that delivers too little fails as network, and what came is kept", async () => {
      await withStream(new MemoryBlob(randomBytes(6 * chunkBytes)), async ({ blob, stream, again }) => {
        const short: BlobSource = Object.assign(new MemoryBlob(blob.bytes), {
          fetchRange: (offset: number) => blob.fetchRange(offset, 2 * chunkBytes - offset),
        });
        const broken = again(short);
        await rejectsWith(collect(broken.follow()), "network");
        assert.equal(stream.frontierBytes, 2 * chunkBytes);
        assert.deepEqual(await collect(stream.follow()), bytesOf(blob));
        assert.deepEqual(blob.requests.at(-1), { offset: 2 * chunkBytes, length: 4 * chunkBytes });
      });
    });

    test("a source that delivers too much never completes with wrong bytes", async () => {
      await withStream(new MemoryBlob(randomBytes(5 * chunkBytes + 100)), async ({ blob, again }) => {
        const longer = Buffer.concat([blob.bytes, randomBytes(1000)]);
        const long: BlobSource = Object.assign(new MemoryBlob(blob.bytes), {
          async *fetchRange(offset: number) {
            yield longer.subarray(offset);
          },
        });
        const stream = again(long);
        await rejectsWith(collect(stream.follow()), "mismatch");
        assert.equal(stream.complete, false);
        assert.deepEqual(await collect(again().follow()), bytesOf(blob));
      });
    });

    test("closing ends everyone with aborted, and keeps what came", async () => {
      const { blob, gate, stuck } = gatedBlob(10 * chunkBytes, 4 * chunkBytes);
      await withStream(blob, async ({ stream, again }) => {
        const waiting = [stream.finish(), collect(stream.follow()), stream.read(9 * chunkBytes, 1)];
        const rejected = waiting.map((promise) => rejectsWith(promise, "aborted"));
        await stuck.promise;
        const closed = stream[Symbol.asyncDispose]();
        gate.resolve();
        await closed;
        await Promise.all(rejected);
        await rejectsWith(stream.finish(), "aborted");
        await rejectsWith(stream.read(0, 1), "aborted");
        await rejectsWith(collect(stream.follow()), "aborted");
        blob.requests.length = 0;
        assert.deepEqual(await collect(again().follow()), bytesOf(blob));
        assert.deepEqual(blob.requests, [{ offset: 4 * chunkBytes, length: 6 * chunkBytes }]);
      });
    });

    test("ranges outside the blob are refused", async () => {
      await withStream(new MemoryBlob(randomBytes(1000)), async ({ blob, stream }) => {
        for (const [from, to] of [
          [-1, 5],
          [5, 4],
          [0, 1001],
          [1001, 1001],
          [0.5, 1],
        ] as const) {
          await rejectsWith(collect(stream.follow({ from, to })), "usage");
          await rejectsWith(stream.read(from, to - from), "usage");
        }
        assert.deepEqual(blob.requests, []);
      });
    });
  });
}
