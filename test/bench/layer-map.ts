import { resolvePath } from "../../src/erofs/path-walk.js";
import { ErofsTree } from "../../src/erofs/reader.js";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { openZinfo } from "../../src/gzip/zinfo.js";
import type { IndexPaths } from "../../src/index/files.js";

/** Where a file's content lies in the uncompressed layer. The generated files are one piece each. */
export async function tarRange(index: IndexPaths, path: string): Promise<{ offset: number; length: number }> {
  await using tree = await ErofsTree.open(index.tarindexPath);
  const { nid, attr } = resolvePath(tree, Buffer.from(path));
  const [extent, ...more] = tree.image.mapRange(nid, 0, attr.sizeBytes);
  if (extent?.kind !== "device" || more.length > 0 || extent.length !== attr.sizeBytes) {
    throw new Error(`${path}: its content is not one piece of the layer`);
  }
  return { offset: extent.offset, length: extent.length };
}

/** Bytes of the blob from the first to the last span that the file touches. */
export async function compressedRangeBytes(index: IndexPaths, blobSizeBytes: number, path: string): Promise<number> {
  const { offset, length } = await tarRange(index, path);
  await using zinfo = await openZinfo(index.zinfoPath, { blobSizeBytes });
  const spans = new SpanIndex(zinfo, {
    blobSizeBytes,
    uncompressedSizeBytes: await deviceBytes(index),
    streamEnds: false,
  });
  const first = spans.compressedRange(spans.spanAt(offset));
  const last = spans.compressedRange(spans.spanAt(offset + length - 1));
  return last.end - first.begin;
}

/** Size of the layer device as the tarindex has it. */
export async function deviceBytes(index: IndexPaths): Promise<number> {
  await using tree = await ErofsTree.open(index.tarindexPath);
  const { devices, blockSizeBytes } = tree.info;
  return (devices[0]?.blocks ?? 0) * blockSizeBytes;
}
