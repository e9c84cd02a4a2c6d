import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { ErofsTree } from "../../src/erofs/reader.js";
import { deviceTagOf } from "../../src/image/device-tag.js";
import { LayerMerge } from "../../src/image/merge-layers.js";
import { createLayerIndex } from "../../src/index/create.js";
import { loadIndex } from "../../src/index/load.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { memoryBlob } from "./blob-sources.js";
import { writeLayout } from "./layout.js";

const run = promisify(execFile);

/** An image of plain tars as umoci unpacks it: the path of its root. */
export async function unpackWithUmoci(directory: string, tars: readonly Uint8Array[]): Promise<string> {
  const layout = join(directory, "layout");
  const layers = tars.map((bytes) => ({ bytes, mediaType: mediaTypes.ociLayerTar }));
  await writeLayout(layout, [{ layers, tag: "t" }]);
  const bundle = join(directory, "bundle");
  await run("umoci", ["unpack", "--image", `${layout}:t`, bundle]);
  return join(bundle, "rootfs");
}

export interface MergedFiles {
  readonly tarindex: string;
  /** The tars, in the order of the device slots. */
  readonly devices: readonly string[];
}

/** Indexes each tar, merges the indexes as they come back from disk, and writes everything into files. */
export async function writeMerged(directory: string, tars: readonly Uint8Array[]): Promise<MergedFiles> {
  await mkdir(directory, { recursive: true });
  const merge = new LayerMerge();
  const paths = new Map<string, string>();
  for (const tar of tars) {
    const source = memoryBlob(tar);
    const { tarindexPath, jsonPath } = await createLayerIndex({
      source,
      output: { directory: join(directory, "indexes") },
    });
    const { manifest } = await loadIndex({ tarindexPath, jsonPath, blobDigest: source.digest });
    if (manifest === undefined) throw new Error("an index without JSON");
    await using tree = await ErofsTree.open(tarindexPath);
    merge.add({ image: tree.image, digest: source.digest, facts: manifest });
    const path = join(directory, `${deviceTagOf(source.digest)}.tar`);
    await writeFile(path, tar);
    paths.set(source.digest, path);
  }
  const tarindex = join(directory, "merged.tarindex");
  await writeFile(tarindex, Buffer.concat([...merge.write()]));
  return { tarindex, devices: merge.devices.map(({ digest }) => paths.get(digest) ?? "") };
}
