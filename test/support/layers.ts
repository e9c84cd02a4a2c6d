import type { FileTree } from "../../src/erofs/file-tree.js";
import { writeTarindex } from "../../src/erofs/tarindex-writer.js";
import { type FinishedTarTree, TarTree, type WhiteoutMode } from "../../src/index/tar-tree.js";
import { TarWalker } from "../../src/tar/walker.js";
import { buildTar, type TarItem } from "./tar-builder.js";

export const zeroUuid = new Uint8Array(16);

/** What the tar of these items tells. */
export function finishedTree(items: readonly TarItem[]): FinishedTarTree {
  const layer = new TarTree({ whiteouts: "keep" });
  const walker = new TarWalker((entry) => layer.add(entry));
  walker.push(buildTar(items));
  walker.finish();
  return layer.finish();
}

/** The tree of a tar, and the blocks its device slot needs. */
export function treeOfTar(tar: Uint8Array, whiteouts: WhiteoutMode = "keep"): { tree: FileTree; blocks: number } {
  const layer = new TarTree({ whiteouts });
  const walker = new TarWalker((entry) => layer.add(entry));
  walker.push(tar);
  const end = walker.finish();
  return { tree: layer.finish().tree, blocks: Math.ceil(end.endOffset / 512) };
}

/** The tarindex of a tar, with one device. */
export function tarindexOfTar(tar: Uint8Array, whiteouts: WhiteoutMode = "keep"): Buffer {
  const { tree, blocks } = treeOfTar(tar, whiteouts);
  return Buffer.concat([...writeTarindex(tree, { devices: [{ tag: "", blocks }], uuid: zeroUuid })]);
}
