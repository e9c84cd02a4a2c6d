import assert from "node:assert/strict";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { CacheDirectory } from "../../src/cache/cache-directory.js";
import { treeUsage } from "../../src/native/sparse.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { tempDirectory } from "../support/temp.js";

const KIB = 1 << 10;

interface Step {
  /** Which of the users of the cache. */
  readonly who: number;
  readonly bytes: number;
  /** Into which blob. */
  readonly blob: number;
  readonly at: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  who: fc.nat({ max: 3 }),
  bytes: fc.oneof(fc.integer({ min: 1, max: 8 * KIB }), fc.integer({ min: 1, max: 600 * KIB })),
  blob: fc.nat({ max: 5 }),
  at: fc.nat({ max: 4000 * KIB }),
});

/** Each user has his own place in the file of reservations, as a process has. Written is a blob that nobody keeps open. */
async function write(cache: CacheDirectory, { bytes, blob, at }: Step): Promise<boolean> {
  using room = await cache.room.reserve(bytes);
  if (!room) return false;
  await using use = await cache.useBlob(digestOfBytes(Buffer.from([blob])));
  await using file = await open(join(use.path, "compressed"), "a+", 0o600);
  // Appending to what was opened: a blob that is evicted meanwhile is in use, so it is not.
  await file.truncate(Math.max((await file.stat()).size, at + bytes));
  await using target = await open(join(use.path, "compressed"), "r+");
  await target.write(Buffer.alloc(bytes, 1), 0, bytes, at);
  return true;
}

test("whoever reserves, writes and evicts at once: the smallest limit holds at every moment", async (t) => {
  let written = 0;
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 12 }),
      fc.array(fc.option(fc.integer({ min: 512 * KIB, max: 3000 * KIB }), { nil: undefined }), {
        minLength: 4,
        maxLength: 4,
      }),
      async (rounds, limits) => {
        const directory = join(await tempDirectory(t), "cache");
        const given = limits.filter((limit) => limit !== undefined);
        const limitBytes = Math.min(...given, 4000 * KIB);
        const caches: CacheDirectory[] = [];
        // The smallest limit is there from the start: it cannot bind those that wrote before it was given.
        for (const limit of [limitBytes, ...limits]) {
          caches.push(await CacheDirectory.open(directory, limit === undefined ? {} : { limitBytes: limit }));
        }
        try {
          for (const round of rounds) {
            let busy = true;
            const sampling = (async () => {
              while (busy) {
                const bytes = await treeUsage(directory);
                assert.ok(bytes <= limitBytes, `${bytes} bytes with a limit of ${limitBytes}`);
              }
            })();
            const done = round.map(async (each) => {
              const cache = caches[each.who];
              assert.ok(cache);
              if (await write(cache, each)) written += 1;
              else refused += 1;
            });
            await Promise.all(done).finally(() => {
              busy = false;
            });
            await sampling;
          }
        } finally {
          for (const cache of caches) await cache[Symbol.asyncDispose]();
        }
      },
    ),
    { numRuns: 60 },
  );
  assert.ok(written > 100 && refused < written, `${written} written, ${refused} refused`);
});
