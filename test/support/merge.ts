import { closeSync, writeSync } from "node:fs";
import { ErofsTree } from "../../src/erofs/reader.js";
import { layOut, writePlanned } from "../../src/erofs/tarindex-writer.js";
import { deviceTagOf } from "../../src/image/device-tag.js";
import { LayerMerge, type MergeLayer } from "../../src/image/merge-layers.js";
import { TarTree } from "../../src/index/tar-tree.js";
import { ErofsImage } from "../../src/native/erofs.js";
import { openMemoryFile } from "../../src/native/sparse.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { TarWalker } from "../../src/tar/walker.js";
import { zeroUuid } from "./layers.js";
import { MemoryDevice } from "./memory-device.js";
import { type ListedEntry, listErofs } from "./tree-listing.js";

/** An image over bytes in memory. */
export function imageOfBytes(bytes: Uint8Array): ErofsImage {
  const fd = openMemoryFile(bytes.length);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at);
    return new ErofsImage(fd);
  } finally {
    closeSync(fd);
  }
}

/** A layer as the merge takes it, with an index made of its tar; the tar's digest stands for the blob's. */
export function mergeLayerOfTar(tar: Uint8Array): MergeLayer {
  const layer = new TarTree({ whiteouts: "keep" });
  const walker = new TarWalker((entry) => layer.add(entry));
  walker.push(tar);
  const { endOffset } = walker.finish();
  const { tree, impliedDirectories, danglingLinks } = layer.finish();
  const plan = layOut(tree, 1);
  const devices = [{ tag: "", blocks: Math.ceil(endOffset / 512) }];
  const index = Buffer.concat([...writePlanned(tree, plan, { devices, uuid: zeroUuid })]);
  const nids = [...impliedDirectories].map((inode) => plan.nids[inode] ?? 0).filter((nid) => nid !== 0);
  return {
    image: imageOfBytes(index),
    digest: digestOfBytes(tar),
    facts: { whiteouts: "keep", impliedDirectories: nids, danglingLinks },
  };
}

/** The merged tarindex of tars, base first. */
export function mergeTars(tars: readonly Uint8Array[]): { index: Buffer; merge: LayerMerge } {
  const merge = new LayerMerge();
  for (const tar of tars) {
    const layer = mergeLayerOfTar(tar);
    try {
      merge.add(layer);
    } finally {
      layer.image.close();
    }
  }
  return { index: Buffer.concat([...merge.write()]), merge };
}

/** Everything in the merged image of these tars, contents read from the tars that its device slots name. */
export async function listMerged(tars: readonly Uint8Array[]): Promise<ListedEntry[]> {
  await using tree = ErofsTree.of(imageOfBytes(mergeTars(tars).index));
  return await listErofs(tree, devicesOf(tree, tars));
}

/** The tars in the order of an image's device slots, found by their tags. */
export function devicesOf(tree: ErofsTree, tars: readonly Uint8Array[]): MemoryDevice[] {
  const byTag = new Map(tars.map((tar) => [deviceTagOf(digestOfBytes(tar)), tar]));
  return tree.info.devices.map(({ tag }) => {
    const tar = byTag.get(Buffer.from(tag).toString("latin1"));
    if (tar === undefined) throw new Error(`no tar for device ${Buffer.from(tag).toString("latin1")}`);
    return new MemoryDevice(tar);
  });
}
