import type { Cleanup } from "../base/cleanup.js";
import { OcifsError } from "../base/errors.js";
import type { CacheRoom } from "../cache/room.js";
import type { WhiteoutMode } from "../index/tar-tree.js";
import type { OpenLayer } from "../layer/open-layer.js";
import type { TreeCounts } from "../native/content.js";
import type { ErofsImage } from "../native/erofs.js";
import { ContentStore } from "./content-store.js";
import type { Destination } from "./destination.js";
import { objectReferences } from "./export-layer.js";
import { importStream } from "./import-stream.js";
import { layerEvents } from "./layer-events.js";
import { fileAt, objectNameOf } from "./layer-table.js";
import { writeTree } from "./write-tree.js";

/** A tree and its layers, in the order of its device slots. */
export interface LayeredTree {
  readonly tree: ErofsImage;
  readonly layers: readonly OpenLayer[];
}

/** The content stores of all layers, completed first, in their order. */
export async function openStores(
  layers: readonly OpenLayer[],
  room: CacheRoom,
  cleanup: Cleanup,
  signal: AbortSignal,
): Promise<ContentStore[]> {
  const stores: ContentStore[] = [];
  for (const layer of layers) stores.push(cleanup.add(await ContentStore.open(layer, room, signal)));
  return stores;
}

/**
 * Makes the tree of an image that is in the cache below a directory: larger files share the extents of the content stores where the
 * file system can, small ones are copied. Every layer was checked against its diffID when it became complete.
 */
export async function importTree(
  { tree }: LayeredTree,
  stores: readonly ContentStore[],
  destination: Destination,
  signal: AbortSignal,
): Promise<TreeCounts> {
  const sources = stores.flatMap(({ dataFd, objectsFd }) => [dataFd, objectsFd]);
  return await writeTree({
    tree,
    rootFd: destination.rootFd,
    sources,
    placeOf: (device, offset, _size, whole) => {
      const store = stores[device - 1];
      if (!store)
        throw new OcifsError("mismatch", `import: the tree names layer device ${device}, there are ${stores.length}`);
      const name = whole ? objectNameOf(store.table, fileAt(store.table, offset)) : undefined;
      if (name === undefined) return { kind: "ranges", source: 2 * (device - 1) };
      return { kind: "name", source: 2 * (device - 1) + 1, name: Buffer.from(name) };
    },
    signal,
  });
}

/**
 * Makes the tree of one layer by itself. It is read as a stream is, since the layer's index leaves out what only layers below settle,
 * and its files are hashed as they are once they were made.
 */
export async function importLayer(
  layer: OpenLayer,
  store: ContentStore,
  destination: Destination,
  whiteouts: WhiteoutMode,
  signal: AbortSignal,
): Promise<TreeCounts> {
  const { device } = layer;
  const { table, objectsFd, tarDigest } = store;
  const events = layerEvents({ device, table, referenceOf: objectReferences(table), divideContent: true, signal });
  return await importStream({ events, directories: [objectsFd], diffId: tarDigest, whiteouts, signal }, destination);
}
