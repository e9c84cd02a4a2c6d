import assert from "node:assert/strict";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import { isOcifsError } from "../../src/base/errors.js";
import { HybridSource } from "../../src/layer/hybrid-source.js";
import { MemoryDevice } from "../support/memory-device.js";

describe("hybrid source", () => {
  let scratch: string;
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), "ocifs-hybrid-"));
  });
  after(() => rm(scratch, { recursive: true }));

  it("reads as the index and the tar joined", async () => {
    const bytes = fc.uint8Array({ minLength: 1, maxLength: 3000, size: "max" });
    const reads = fc.array(fc.tuple(fc.nat(7000), fc.nat(7000)), { minLength: 1, maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(bytes, bytes, reads, async (index, tar, ranges) => {
        const indexPath = join(scratch, "index");
        await writeFile(indexPath, index);
        const joined = Buffer.concat([index, tar]);
        await using source = await HybridSource.open({
          indexPath,
          device: new MemoryDevice(tar),
          uniaddrBytes: index.length,
        });
        assert.equal(source.sizeBytes, joined.length);
        for (const [offset, length] of [...ranges, [index.length - 1, 2], [0, joined.length + 1]] as const) {
          assert.deepEqual(Buffer.from(await source.read(offset, length)), joined.subarray(offset, offset + length));
        }
      }),
      { numRuns: 60 },
    );
  });

  it("gives nothing at or past its end", async () => {
    const indexPath = join(scratch, "index");
    await writeFile(indexPath, new Uint8Array(512));
    await using source = await HybridSource.open({
      indexPath,
      device: new MemoryDevice(new Uint8Array(100)),
      uniaddrBytes: 512,
    });
    for (const offset of [612, 613, 1 << 30, Number.MAX_SAFE_INTEGER]) {
      assert.equal((await source.read(offset, 4096)).length, 0);
    }
    assert.equal((await source.read(0, 0)).length, 0);
  });

  it("refuses an index of another size, bad arguments, a fired signal and a short device", async () => {
    const indexPath = join(scratch, "index");
    await writeFile(indexPath, new Uint8Array(512));
    const device = new MemoryDevice(new Uint8Array(100));
    for (const uniaddrBytes of [0, 511, 513, 1024]) {
      await assert.rejects(HybridSource.open({ indexPath, device, uniaddrBytes }), (e) => isOcifsError(e, "mismatch"));
    }
    await assert.rejects(HybridSource.open({ indexPath: join(scratch, "absent"), device, uniaddrBytes: 512 }), (e) =>
      isOcifsError(e, "io"),
    );
    await using source = await HybridSource.open({ indexPath, device, uniaddrBytes: 512 });
    for (const [offset, length] of [
      [-1, 1],
      [0, -1],
      [0.5, 1],
    ] as const) {
      await assert.rejects(source.read(offset, length), (e) => isOcifsError(e, "usage"));
    }
    await assert.rejects(source.read(0, 600, AbortSignal.abort()), (e) => isOcifsError(e, "aborted"));

    const liar = Object.assign(new MemoryDevice(new Uint8Array(10)), {});
    Object.defineProperty(liar, "sizeBytes", { value: 100 });
    await using short = await HybridSource.open({ indexPath, device: liar, uniaddrBytes: 512 });
    await assert.rejects(short.read(500, 50), (e) => isOcifsError(e, "mismatch"));
    await truncate(indexPath, 256);
    await assert.rejects(short.read(0, 300), (e) => isOcifsError(e, "mismatch"));
  });
});
