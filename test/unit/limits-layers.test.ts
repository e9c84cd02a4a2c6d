import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { limits } from "../../src/base/limits.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { BlobInput } from "../../src/index/blob-input.js";
import { createLayerIndex } from "../../src/index/create.js";
import { decodeBlob } from "../../src/index/decode.js";
import { EqualSpans } from "../../src/index/equal-spans.js";
import { parseIndexManifest } from "../../src/index/manifest.js";
import { EqualSpanTable } from "../../src/layer/equal-span-table.js";
import { memoryBlob } from "../support/blob-sources.js";
import { rejectsWith, throwsWith } from "../support/errors.js";
import { finishedTree, tarindexOfTar } from "../support/layers.js";
import { lowerLimits } from "../support/lowered-limits.js";
import { imageOfBytes, mergeTars } from "../support/merge.js";
import { buildTar, padding, type TarItem } from "../support/tar-builder.js";
import { tempDirectory } from "../support/temp.js";

const files = (count: number, prefix = "f"): TarItem[] =>
  Array.from({ length: count }, (_, i) => ({ path: `${prefix}${i}` }));

test("entries of a tar, and of a tree that is walked", (t) => {
  const index = tarindexOfTar(buildTar(files(11)));
  lowerLimits(t, { tarEntries: 10 });
  assert.ok(finishedTree(files(10)));
  assert.match(throwsWith(() => finishedTree(files(11)), "limit").message, /tar entry "f10".*more than 10 entries/);
  const image = imageOfBytes(index);
  assert.match(throwsWith(() => [...ErofsTree.of(image).walk()], "limit").message, /more than 10 entries/);
});

test("names and attributes of a tree", (t) => {
  lowerLimits(t, { treeBytes: 5000 });
  assert.ok(finishedTree(files(10)));
  const long = files(100, "n".repeat(100));
  assert.match(throwsWith(() => finishedTree(long), "limit").message, /need more than 5000 bytes/);
});

test("sizes in headers, and maps and chunks of sparse files", (t) => {
  const huge: TarItem = { path: "huge", headerSize: limits.layerTarBytes + 1 };
  assert.match(throwsWith(() => finishedTree([huge]), "limit").message, /larger than a layer may be/);
  const pax = { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "102400" };
  const map = `100\n${Array.from({ length: 100 }, (_, i) => `${i * 1024}\n512\n`).join("")}`;
  const data = Buffer.concat([Buffer.from(map), padding(map.length), Buffer.alloc(100 * 512, "z")]);
  const sparse: TarItem = { path: "sparse", pax, data };
  assert.ok(finishedTree([sparse]));
  lowerLimits(t, { sparseChunks: 199 });
  throwsWith(() => finishedTree([sparse]), "unsupported");
  lowerLimits(t, { tarSparseMapBytes: 512 });
  assert.match(throwsWith(() => finishedTree([sparse]), "limit").message, /sparse map larger than 512 bytes/);
});

test("what hard links to layers below take", (t) => {
  const links = files(10).map(({ path }): TarItem => ({ path, type: "hardlink", linkPath: `below/${path}` }));
  assert.equal(finishedTree(links).danglingLinks.length, 10);
  lowerLimits(t, { danglingLinkBytes: 50 });
  throwsWith(() => finishedTree(links), "limit");
});

test("entries and layers of an image", (t) => {
  const tars = [buildTar(files(6)), buildTar(files(6, "g"))];
  lowerLimits(t, { imageEntries: 12 });
  assert.ok(mergeTars(tars));
  lowerLimits(t, { imageEntries: 11 });
  assert.match(throwsWith(() => mergeTars(tars), "limit").message, /more than 11 entries/);
  lowerLimits(t, { imageEntries: 100, layers: 1 });
  assert.match(throwsWith(() => mergeTars(tars), "limit").message, /more than 1 layers/);
});

test("directories that the tar has no entry for", async (t) => {
  const directory = await tempDirectory(t);
  const source = memoryBlob(gzipSync(buildTar(files(5).map(({ path }) => ({ path: `${String(path)}/x/y` })))));
  const create = () => createLayerIndex({ source, output: { directory }, spanSizeBytes: 1 << 20 });
  lowerLimits(t, { impliedDirectories: 10 });
  const error = await rejectsWith(create(), "limit");
  // The root, and two for each file.
  assert.match(error.message, /11 directories have no entry in the tar, the limit is 10/);
});

test("bytes that a blob inflates to", async () => {
  // As a decoder of a bomb would tell, without the hours that it takes.
  const decoder = {
    step: async () => ({ consumed: 1, produced: limits.layerTarBytes / 2 + 1 }),
    close: () => undefined,
  };
  const source = memoryBlob(Buffer.alloc(10));
  await using input = new BlobInput(source, undefined);
  const first = await input.next();
  assert.ok(first !== undefined);
  const { message } = await rejectsWith(
    decodeBlob(first, input, decoder, async () => undefined),
    "limit",
  );
  assert.match(message, /inflates to more than 17592186044416 bytes/);
});

test("spans of a layer without checkpoints", (t) => {
  lowerLimits(t, { checkpoints: 4 });
  const table = (sizeBytes: number) =>
    new EqualSpanTable({ encoding: "tar", blobSizeBytes: sizeBytes, sizeBytes, spanBytes: 10 });
  assert.equal(table(40).spanCount, 4);
  throwsWith(() => table(41), "limit");
  const spans = new EqualSpans(10);
  assert.deepEqual([...spans.startsBefore(15)], [0, 10]);
  assert.deepEqual([...spans.startsBefore(20)], []);
  assert.deepEqual([...spans.startsBefore(40)], [20, 30]);
  throwsWith(() => spans.startsBefore(41), "limit");
});

test("lists of an index's JSON", (t) => {
  const digest = `sha256:${"0".repeat(64)}`;
  const index = {
    version: 2,
    generator: "test",
    blob: { digest, sizeBytes: 1, encoding: "tar" },
    tar: { digest, sizeBytes: 1, entryCount: 0, endOffset: 0, endMarkerFound: true },
    whiteouts: "keep",
    tarindex: { digest, sizeBytes: 1 },
    impliedDirectories: [1, 2],
    danglingLinks: [{ path: "YQ==", target: "Yg==" }],
    spans: { sizeBytes: 1, digests: ["0".repeat(64)] },
  };
  const parse = () => parseIndexManifest(JSON.stringify(index), "i");
  assert.equal(parse().danglingLinks.length, 1);
  lowerLimits(t, { impliedDirectories: 1 });
  assert.match(throwsWith(parse, "corrupt").message, /impliedDirectories is not a list of at most 1;/);
  lowerLimits(t, { impliedDirectories: 2, danglingLinkBytes: 0 });
  assert.match(throwsWith(parse, "corrupt").message, /danglingLinks is not a list of at most 0;/);
  lowerLimits(t, { danglingLinkBytes: 1, checkpoints: 0 });
  assert.match(throwsWith(parse, "corrupt").message, /at most 0 digests/);
  lowerLimits(t, { checkpoints: 1, pathBytes: 0 });
  assert.match(throwsWith(parse, "corrupt").message, /danglingLinks\[0\]\.path is not base64 of 1 to 0 bytes/);
});
