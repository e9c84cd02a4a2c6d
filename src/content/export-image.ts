import { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import type { CacheRoom } from "../cache/room.js";
import type { OpenLayer } from "../layer/open-layer.js";
import type { ContentDirectory } from "./beside.js";
import { completeLayer } from "./complete-layer.js";
import { composefsDump } from "./composefs-dump.js";
import { ContentStore } from "./content-store.js";
import { exportStream, exportTar, filesWorthPassing, type Write } from "./export-layer.js";
import { type LayeredTree, openStores } from "./import-image.js";
import { fileAt, INLINE_BYTES, objectNameOf } from "./layer-table.js";

export const exportFormats = ["tar", "splitfdstream", "splitdirfdstream", "composefs-dump", "erofs"] as const;
export type ExportFormat = (typeof exportFormats)[number];

export interface ExportOptions {
  readonly format: ExportFormat;
  readonly room: CacheRoom;
  /** Where file contents go that the output names; undefined: they are all in it. */
  readonly content: ContentDirectory | undefined;
  readonly signal: AbortSignal;
}

/** Writes an image, or for the formats of one layer its only one. Layers that are not complete are fetched first. */
export async function exportImage(image: LayeredTree, o: ExportOptions, write: Write): Promise<void> {
  if (o.format === "composefs-dump") return await exportDump(image, o, write);
  const [layer] = image.layers;
  if (!layer || image.layers.length !== 1) {
    throw new OcifsError(
      "usage",
      `--format ${o.format}: it is of one layer and the image has ${image.layers.length}; choose one with --layer`,
    );
  }
  if (o.format === "erofs") return await exportErofs(image, layer, o, write);
  // Without a disk cache the layer is streamed and checked as it goes.
  const diffId = layer.files ? await completeLayer(layer, o.signal) : await layer.tarDigest(o.signal);
  if (o.format === "tar") return await exportTar(layer.device, diffId, write, o.signal);
  const { format, signal } = o;
  if (!o.content) return await exportStream({ device: layer.device, format, store: undefined, diffId, signal }, write);
  await using store = await ContentStore.open(layer, o.room, signal);
  const { sizes } = store.table;
  if (format === "splitfdstream") {
    const files = filesWorthPassing(store, sizes.length);
    for (const [index, i] of files.entries()) await o.content.addFile(store, i, String(index));
    return await exportStream({ device: layer.device, format, store, files, diffId, signal }, write);
  }
  for (const i of sizes.keys()) if (objectNameOf(store.table, i) !== undefined) await o.content.addFile(store, i);
  await exportStream({ device: layer.device, format, store, diffId, signal }, write);
}

async function exportDump({ tree, layers }: LayeredTree, o: ExportOptions, write: Write): Promise<void> {
  await using cleanup = new Cleanup();
  const stores = await openStores(layers, o.room, cleanup, o.signal);
  const { content } = o;
  const lines = composefsDump({
    tree,
    layers: stores,
    whiteouts: layers.length === 1 ? "overlay" : "keep",
    onExternal: async ({ layer, offset, sizeBytes }) => {
      const store = stores[layer];
      if (!content || !store) return;
      if (sizeBytes > INLINE_BYTES) await content.addFile(store, fileAt(store.table, offset));
      else await content.addRange(store, offset, sizeBytes);
    },
    signal: o.signal,
  });
  for await (const line of lines) await write(Buffer.from(line, "latin1"));
}

/** The index with the layer's tar behind it: an EROFS image that the kernel mounts as it is. */
async function exportErofs({ tree }: LayeredTree, layer: OpenLayer, o: ExportOptions, write: Write): Promise<void> {
  const { sizeBytes, blockSizeBytes, devices } = tree.info();
  const [slot] = devices;
  if (devices.length !== 1 || slot?.uniaddr !== sizeBytes / blockSizeBytes) {
    throw new OcifsError("unsupported", "--format erofs: the layer's tar is not mapped right behind its index");
  }
  const pieceBytes = 1 << 20;
  for (let at = 0; at < sizeBytes; at += pieceBytes)
    await write(tree.readIndex(at, Math.min(pieceBytes, sizeBytes - at)));
  const diffId = layer.files ? await completeLayer(layer, o.signal) : await layer.tarDigest(o.signal);
  await exportTar(layer.device, diffId, write, o.signal);
  const missing = slot.blocks * blockSizeBytes - layer.device.sizeBytes;
  if (missing > 0) await write(new Uint8Array(missing));
}
