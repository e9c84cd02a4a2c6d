import { open } from "node:fs/promises";
import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import { CacheDirectory } from "../cache/cache-directory.js";
import { SpanIndex } from "../gzip/span-index.js";
import { openZinfo } from "../gzip/zinfo.js";
import { digestOfFile } from "../index/files.js";
import { type LoadedIndex, loadIndex } from "../index/load.js";
import { locateIndex } from "../index/locate.js";
import { GzipSpanTable } from "../layer/gzip-span-table.js";
import { OpenLayer } from "../layer/open-layer.js";
import type { SpanTable } from "../layer/span-table.js";
import { TarSpanTable } from "../layer/tar-span-table.js";
import type { ErofsImage } from "../native/erofs.js";
import { type LayerChoice, OpenSource, type SourceLayer, type SourceOptions } from "./open-source.js";
import { openTarindexCopy } from "./tarindex-memory.js";

/** EROFS tarindexes count the tar in blocks of this size. */
const TAR_BLOCK_BYTES = 512;

export interface MountableImageOptions extends SourceOptions, LayerChoice {
  readonly cacheDir: string;
  /** Index files; without them the index is looked for in the cache. */
  readonly tarindex?: string;
  readonly zinfo?: string;
  /**
   * span: every span's digest is checked, and an index without digests is refused. blob: span digests where there are any,
   * checkpoint windows where not, and the blob's digest once it is complete. none: only what decoding itself notices.
   */
  readonly verify: "span" | "blob" | "none";
}

/** A tree with the layers that its files lie in. */
export class MountableImage implements AsyncDisposable {
  readonly tree: ErofsImage;
  /** In the order of the tarindex' device slots. */
  readonly layers: readonly OpenLayer[];
  readonly manifestDigest: string | undefined;
  readonly #cleanup: Cleanup;

  constructor(tree: ErofsImage, layers: readonly OpenLayer[], manifestDigest: string | undefined, cleanup: Cleanup) {
    this.tree = tree;
    this.layers = layers;
    this.manifestDigest = manifestDigest;
    this.#cleanup = cleanup;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
  }
}

/**
 * Opens one layer of an image for reading through its index: resolves the reference, finds the index, checks that index,
 * checkpoints and blob belong together as far as they say, and opens the cache. Nothing of the blob is fetched yet.
 */
export async function openMountableImage(
  options: MountableImageOptions,
  log: Log,
  signal?: AbortSignal,
): Promise<MountableImage> {
  const cleanup = new Cleanup();
  try {
    const cache = await CacheDirectory.open(options.cacheDir);
    const source = cleanup.add(await OpenSource.open(options, signal));
    const layer = await source.openLayer(options);
    const location = await locateIndex(options, cache, layer.blob.digest);
    const index = await loadIndex({ ...location, blobDigest: layer.blob.digest, ...(signal ? { signal } : {}) });
    checkTrust(options, index, layer, log);
    const tree = await openTarindexCopy(index.tarindexPath, index.manifest?.tarindex.digest);
    cleanup.defer(() => tree.close());
    const tarBytes = checkTarindex(tree, index);
    const table = await openSpanTable(layer, index, tarBytes, cleanup);
    const openLayer = cleanup.add(
      await OpenLayer.open({
        source: layer.blob,
        table,
        cache,
        checkWindows: options.verify !== "none",
        checkBlob: options.verify !== "none",
        log,
      }),
    );
    return new MountableImage(tree, [openLayer], source.resolved?.manifestDigest, cleanup);
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}

function checkTrust(options: MountableImageOptions, index: LoadedIndex, layer: SourceLayer, log: Log): void {
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

async function openSpanTable(
  layer: SourceLayer,
  index: LoadedIndex,
  tarBytes: number,
  cleanup: Cleanup,
): Promise<SpanTable> {
  const { manifest, zinfoPath } = index;
  const encoding = manifest?.blob.encoding ?? layer.encoding ?? (zinfoPath === undefined ? "tar" : "gzip");
  if (encoding === "zstd") {
    throw new OcifsError(
      "unsupported",
      `layer ${layer.blob.digest}: it is zstd; this version mounts gzip and plain tar layers`,
    );
  }
  const sizeBytes = manifest?.tar.sizeBytes ?? tarBytes;
  const digests = manifest?.spans.digests;
  if (encoding === "tar") {
    if (zinfoPath !== undefined) {
      throw new OcifsError(
        "usage",
        `layer ${layer.blob.digest}: it is a plain tar, which needs no zinfo; leave oci.zinfo out`,
      );
    }
    if (sizeBytes > layer.blob.sizeBytes) {
      throw new OcifsError(
        "mismatch",
        `tarindex ${index.tarindexPath}: ${sizeBytes} bytes of tar, the blob has ${layer.blob.sizeBytes}; is it gzip, and oci.zinfo missing?`,
      );
    }
    return new TarSpanTable(sizeBytes, manifest?.spans.sizeBytes, digests);
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
