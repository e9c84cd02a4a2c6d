/**
 * Decodes every span of a gzip layer the way a mount does, with as many at once as its pool has threads, and prints JSON: ns, from
 * opening the zinfo to the last span; bytes; spans.
 *
 *   decode-layer.js decode|check|keep LAYER INDEX.json DIR
 *
 * decode: the bytes are thrown away. check: each span's digest is compared too. keep: and its bytes are written to files in DIR.
 */
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { bootId } from "../../src/cache/cache-directory.js";
import { openFd, truncateFd } from "../../src/cache/raw-file.js";
import { SpanIndex } from "../../src/gzip/span-index.js";
import { openZinfo } from "../../src/gzip/zinfo.js";
import type { IndexManifest } from "../../src/index/manifest.js";
import { GzipSpanTable } from "../../src/layer/gzip-span-table.js";
import { SpanStore } from "../../src/native/layer.js";

/** libuv's default pool, which mounts use as well. */
const poolThreads = 4;

const [mode = "", layerPath = "", jsonPath = "", directory = ""] = process.argv.slice(2);
if (!["decode", "check", "keep"].includes(mode)) throw new Error(`no mode "${mode}"`);
const { blob, tar, spans: spanInfo, zinfo: zinfoInfo } = JSON.parse(await readFile(jsonPath, "utf8")) as IndexManifest;
const begin = process.hrtime.bigint();
const sizes = { blobSizeBytes: blob.sizeBytes, uncompressedSizeBytes: tar.sizeBytes, streamEnds: true };
await using layer = await open(layerPath, "r");
await using zinfo = await openZinfo(jsonPath.replace(/json$/, "zinfo"), sizes);
const table = new GzipSpanTable({
  index: new SpanIndex(zinfo, sizes),
  zinfo,
  zinfoDigest: zinfoInfo?.digest ?? "",
  spanDigests: spanInfo.digests,
});
// The store takes both descriptors over.
const dataFd = await openFd(join(directory, "data"), "create");
await truncateFd(dataFd, tar.sizeBytes);
const store = new SpanStore({
  dataFd,
  spansFd: await openFd(join(directory, "spans"), "create"),
  outStarts: table.outStarts,
  partition: table.partition,
  bootId: await bootId(),
  memoryBytes: 0,
});
let next = 0;
async function work(): Promise<void> {
  while (next < table.spanCount) {
    const span = next++;
    await store.fill({
      span,
      gzip: true,
      fd: layer.fd,
      ...table.compressedRange(span),
      ...table.decodeInput(span),
      digest: mode === "decode" ? undefined : table.digest(span),
      discard: mode !== "keep",
      onlyMemory: false,
    });
  }
}
await Promise.all(Array.from({ length: poolThreads }, work));
const ns = Number(process.hrtime.bigint() - begin);
store.close();
const bytes = table.outStarts.at(-1) ?? 0;
process.stdout.write(`${JSON.stringify({ ns, bytes, spans: table.spanCount })}\n`);
