/** First mount without an index: one pass of one download fills the cache file and makes the index. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { createLayerIndex } from "../../src/index/create.js";
import { indexPathsIn } from "../../src/index/files.js";
import { InFlightSource } from "../../src/layer/in-flight-source.js";
import { InFlightStream } from "../../src/layer/in-flight-stream.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { rejectsWith } from "../support/errors.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { buildTar } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";

const tar = buildTar(Array.from({ length: 40 }, (_, i) => ({ path: `f/${i}`, data: randomBytes(100_000) })));
const gz = gzipSync(tar, { level: 1 });

test("an index is made while the blob comes into the cache, from one request", async (t) => {
  const directory = await tempDirectory(t);
  const blob = new MemoryBlob(gz);
  const path = join(directory, "compressed");
  await using file = await CompressedFile.open(path, blob.sizeBytes);
  await using stream = InFlightStream.open({ source: blob, file });
  await using source = new InFlightSource(stream);
  await createLayerIndex({ source, output: { directory: join(directory, "streamed") } });
  assert.equal(stream.complete, true);
  assert.deepEqual(blob.requests, [{ offset: 0, length: gz.length }]);
  assert.ok((await readFile(path)).equals(gz));
  await createLayerIndex({ source: new MemoryBlob(gz), output: { directory: join(directory, "direct") } });
  const made = await Promise.all(
    ["streamed", "direct"].map((name) => readFile(indexPathsIn(join(directory, name), blob.digest).tarindexPath)),
  );
  assert.ok(made[0]?.equals(made[1] ?? Buffer.alloc(0)));
});

test("no index is made of a blob with another digest", async (t) => {
  const directory = await tempDirectory(t);
  const blob = new MemoryBlob(gz, digestOfBytes(Buffer.from("another")));
  await using file = CompressedFile.openInMemory(blob.sizeBytes);
  await using stream = InFlightStream.open({ source: blob, file });
  await using source = new InFlightSource(stream);
  await rejectsWith(createLayerIndex({ source, output: { directory: join(directory, "index") } }), "mismatch");
  assert.equal(file.presentBytes(), 0);
});
