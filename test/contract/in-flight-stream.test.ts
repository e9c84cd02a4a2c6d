import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightSource } from "../../src/layer/in-flight-source.js";
import { InFlightStream } from "../../src/layer/in-flight-stream.js";
import { MemoryBlob } from "../support/memory-blob.js";
import { testBlobSource } from "./blob-source.js";
import { testInFlightStream, type WithCacheFile } from "./in-flight-stream.js";

const onDisk: WithCacheFile = async (sizeBytes, use) => {
  const directory = await mkdtemp(join(tmpdir(), "ocifs-stream-"));
  try {
    await using file = await CompressedFile.open(join(directory, "compressed"), sizeBytes);
    await use(file);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
};

const inMemory: WithCacheFile = async (sizeBytes, use) => {
  await using file = CompressedFile.openInMemory(sizeBytes);
  await use(file);
};

testInFlightStream("file on disk", onDisk);
testInFlightStream("file in memory", inMemory);

for (const [name, withFile] of [
  ["file on disk", onDisk],
  ["file in memory", inMemory],
] as const) {
  testBlobSource(`in-flight stream, ${name}`, (bytes, use) =>
    withFile(bytes.length, async (file) => {
      await using stream = InFlightStream.open({ source: new MemoryBlob(bytes), file });
      await using source = new InFlightSource(stream);
      await use(source);
    }),
  );
}
