import { type PlannedTarindex, planTarindex } from "../native/tarindex.js";
import { type FileTree, rootEntry } from "./file-tree.js";
import { type DeviceSlot, writeDeviceTable, writeSuperblock } from "./superblock.js";

export interface TarindexOptions {
  /** Slot k holds the layer that inodes name as device k + 1. At least one. */
  readonly devices: readonly DeviceSlot[];
  /** 16 bytes. */
  readonly uuid: Uint8Array;
}

/**
 * The tarindex of a tree as consecutive pieces; each is the caller's to keep. The same tree and options give
 * the same bytes, in whatever order names were added. The bytes add up to the first device's flat address (uniaddr × 512). Throws `limit`.
 */
export function writeTarindex(tree: FileTree, options: TarindexOptions): Generator<Uint8Array> {
  return writePlanned(tree, layOut(tree, options.devices.length), options);
}

/** Decides the place of every inode and directory block. The tree must not change between this and writing. Throws `limit`. */
export function layOut(tree: FileTree, deviceCount: number): PlannedTarindex {
  return planTarindex(tree.columns(), deviceCount);
}

/** The same for a layout that the caller wants to know too: `layOut` of this tree, for as many devices. To be written once. */
export function* writePlanned(
  tree: FileTree,
  plan: PlannedTarindex,
  { devices, uuid }: TarindexOptions,
): Generator<Uint8Array> {
  const deviceBlocks = Float64Array.from(devices, ({ blocks }) => blocks);
  let first = true;
  for (let piece = plan.next(deviceBlocks); piece !== undefined; piece = plan.next(deviceBlocks)) {
    if (first) {
      writeDeviceTable(piece, plan, devices);
      writeSuperblock(piece, plan, { rootNid: plan.nids[tree.inode(rootEntry)] ?? 0, devices, uuid });
    }
    first = false;
    yield piece;
  }
}
