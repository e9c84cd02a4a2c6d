import { open } from "node:fs/promises";
import type { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { SpanIndex } from "../gzip/span-index.js";
import { openZinfo } from "../gzip/zinfo.js";
import { digestOfFile } from "../index/files.js";
import type { LoadedIndex } from "../index/load.js";
import { EqualSpanTable } from "../layer/equal-span-table.js";
import { GzipSpanTable } from "../layer/gzip-span-table.js";
import type { SpanTable } from "../layer/span-table.js";
import type { ErofsImage } from "../native/erofs.js";
import type { LayerEncoding } from "../oci/media-types.js";
import type { SourceLayer } from "./open-source.js";
import { openTarindexCopy } from "./tarindex-memory.js";

/** EROFS tarindexes count the tar in blocks of this size. */
const TAR_BLOCK_BYTES = 512;

export interface IndexChoice {
  /** Index files; without them the index in the cache is used, or built now. */
  readonly tarindex?: string;
  readonly zinfo?: string;
  /**
   * span: every span's digest is checked, and an index without digests is refused. blob: span digests where there are any,
   * checkpoint windows where not, and the blob's digest once it is complete. none: only what decoding itself notices.
   */
  readonly verify: "span" | "blob" | "none";
}

/** A layer with its index's files, of which the JSON was read and checked, and the zinfo compared with it. */
export interface LayerIndex {
  readonly layer: SourceLayer;
  readonly index: LoadedIndex;
}

/** A layer with its index, checked as far as both say that they belong together. */
export interface IndexedLayer extends LayerIndex {
  /** The layer's own tarindex. */
  readonly tree: ErofsImage;
  readonly table: SpanTable;
}

/** Checks a layer's index and opens it. What it opens is closed by `cleanup`. */
export async function openIndexedLayer(
  options: IndexChoice,
  layer: SourceLayer,
  index: LoadedIndex,
  cleanup: Cleanup,
  log: Log,
  signal?: AbortSignal,
): Promise<IndexedLayer> {
  const found = checkLayerIndex(options, layer, index, log);
  const { tree, tarBytes } = await openLayerTree(found, cleanup, signal);
  return { ...found, tree, table: await openLayerTable(found, cleanup, tarBytes) };
}

/** The first step: do the files belong to the layer. The tarindex has not been read yet. */
export function checkLayerIndex(options: IndexChoice, layer: SourceLayer, index: LoadedIndex, log: Log): LayerIndex {
  checkTrust(options, index, layer, log);
  return { layer, index };
}

/** The layer's tree, and how long the tar is that it describes. */
export async function openLayerTree(
  { index }: LayerIndex,
  cleanup: Cleanup,
  signal?: AbortSignal,
): Promise<{ tree: ErofsImage; tarBytes: number }> {
  const tree = await openTarindexCopy(index.tarindexPath, index.manifest?.tarindex.digest, signal);
  cleanup.defer(() => tree.close());
  return { tree, tarBytes: checkTarindex(tree, index) };
}

function checkTrust(options: IndexChoice, index: LoadedIndex, layer: SourceLayer, log: Log): void {
  if (index.manifest) {
    if (index.manifest.blob.sizeBytes !== layer.blob.sizeBytes) {
      throw new OcifsError(
        "mismatch",
        `index ${index.tarindexPath}: made for a blob of ${index.manifest.blob.sizeBytes} bytes, this one has ${layer.blob.sizeBytes}`,
      );
    }
    return;
  }
  if (options.verify === "span") {
    throw new OcifsError(
      "usage",
      `verify=span: ${index.tarindexPath} has no JSON with span digests beside it; make an index with "ocifs index create", or use verify=blob`,
    );
  }
  log.info("the index records no digests; the blob's digest is checked once all of it was read", {
    tarindex: index.tarindexPath,
  });
}

/** The layer's size as the tarindex sees it, in bytes; `mismatch` when it does not fit the rest of the index. */
function checkTarindex(tree: ErofsImage, index: LoadedIndex): number {
  const { devices, primaryBlocks, blockSizeBytes } = tree.info();
  const [device] = devices;
  if (devices.length !== 1 || !device) {
    throw new OcifsError(
      "unsupported",
      `tarindex ${index.tarindexPath}: it describes ${devices.length} layers; this version mounts indexes of one`,
    );
  }
  if (blockSizeBytes !== TAR_BLOCK_BYTES) {
    throw new OcifsError(
      "unsupported",
      `tarindex ${index.tarindexPath}: blocks of ${blockSizeBytes} bytes, want ${TAR_BLOCK_BYTES}`,
    );
  }
  if (device.uniaddr !== 0 && device.uniaddr !== primaryBlocks) {
    throw new OcifsError(
      "mismatch",
      `tarindex ${index.tarindexPath}: its layer is mapped at block ${device.uniaddr}, the index ends at block ${primaryBlocks}`,
    );
  }
  const tarBytes = device.blocks * TAR_BLOCK_BYTES;
  const recorded = index.manifest?.tar.sizeBytes;
  if (recorded !== undefined && tarBytes > Math.ceil(recorded / TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES) {
    throw new OcifsError(
      "mismatch",
      `tarindex ${index.tarindexPath}: ${tarBytes} bytes of tar, its JSON says ${recorded}`,
    );
  }
  return tarBytes;
}

/** What its division into spans depends on, beside the index. */
export interface DividedLayer {
  readonly blob: { readonly digest: string; readonly sizeBytes: number };
  readonly encoding: LayerEncoding | undefined;
}

/** How the layer is divided into spans. `tarBytes`: from the tree; needed where no JSON says it. */
export async function openLayerTable(
  { layer, index }: { readonly layer: DividedLayer; readonly index: LoadedIndex },
  cleanup: Cleanup,
  tarBytes = 0,
): Promise<SpanTable> {
  const { manifest, zinfoPath } = index;
  const encoding = manifest?.blob.encoding ?? layer.encoding ?? (zinfoPath === undefined ? "tar" : "gzip");
  const sizeBytes = manifest?.tar.sizeBytes ?? tarBytes;
  const digests = manifest?.spans.digests;
  if (encoding !== "gzip") {
    if (zinfoPath !== undefined) {
      throw new OcifsError(
        "usage",
        `layer ${layer.blob.digest}: it is ${encoding}, which needs no zinfo; leave oci.zinfo out`,
      );
    }
    if (encoding === "tar" && sizeBytes > layer.blob.sizeBytes) {
      throw new OcifsError(
        "mismatch",
        `tarindex ${index.tarindexPath}: ${sizeBytes} bytes of tar, the blob has ${layer.blob.sizeBytes}; is it gzip, and oci.zinfo missing?`,
      );
    }
    return new EqualSpanTable({
      encoding,
      blobSizeBytes: layer.blob.sizeBytes,
      sizeBytes,
      spanBytes: manifest?.spans.sizeBytes,
      digests,
    });
  }
  if (zinfoPath === undefined) {
    throw new OcifsError("usage", `layer ${layer.blob.digest}: it is gzip; name its checkpoints with oci.zinfo=`);
  }
  const zinfo = cleanup.add(await openZinfo(zinfoPath, { blobSizeBytes: layer.blob.sizeBytes }));
  const spans = new SpanIndex(zinfo, {
    blobSizeBytes: layer.blob.sizeBytes,
    uncompressedSizeBytes: sizeBytes,
    // Of a foreign index only the archive's size is known, and padding may follow it.
    streamEnds: manifest !== undefined,
  });
  if (digests !== undefined && digests.length !== spans.spanCount) {
    throw new OcifsError(
      "mismatch",
      `zinfo ${zinfoPath}: ${spans.spanCount} spans, the index's JSON has digests of ${digests.length}; create the index again`,
    );
  }
  const zinfoDigest = manifest?.zinfo?.digest ?? (await digestOfPath(zinfoPath));
  return new GzipSpanTable({ index: spans, zinfo, zinfoDigest, spanDigests: digests });
}

async function digestOfPath(path: string): Promise<string> {
  await using file = await open(path, "r");
  return (await digestOfFile(file)).digest;
}
