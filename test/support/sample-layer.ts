import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { createLayerIndex } from "../../src/index/create.js";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { memoryBlob } from "./blob-sources.js";
import { type PushedImage, pushImage, type RegistryAuth } from "./registry.js";
import { noise } from "./semantics-tree.js";
import { buildTar } from "./tar-builder.js";

export const sampleBig = noise(3_000_000, 99);

/** A small gzip layer with a file of several spans, and its index, in a directory of the test. */
export interface SampleLayer {
  readonly blobPath: string;
  readonly digest: Digest;
  readonly diffId: Digest;
  readonly tarindex: string;
  readonly zinfo: string;
  /** `oci.tarindex=…` and `oci.zinfo=…`. */
  readonly words: readonly string[];
}

/** `salt` makes layers of different digests. */
export async function makeSampleLayer(directory: string, salt = ""): Promise<SampleLayer> {
  const tar = buildTar([
    { path: "hello", data: `hello ${salt}\n` },
    { path: "dir/", type: "directory" },
    { path: "dir/link", type: "symlink", linkPath: "../hello" },
    { path: "big", data: sampleBig },
  ]);
  const blob = gzipSync(tar);
  const blobPath = join(directory, `layer${salt}.tar.gz`);
  await writeFile(blobPath, blob);
  const created = await createLayerIndex({
    source: memoryBlob(blob),
    output: { directory },
  });
  const { tarindexPath: tarindex, zinfoPath: zinfo = "" } = created;
  return {
    blobPath,
    digest: digestOfBytes(blob),
    diffId: digestOfBytes(tar),
    tarindex,
    zinfo,
    words: [`oci.tarindex=${tarindex}`, `oci.zinfo=${zinfo}`],
  };
}

/** Pushes the layer as the only one of `REPOSITORY:1`. */
export async function pushSampleLayer(
  host: string,
  layer: SampleLayer,
  repository: string,
  auth?: RegistryAuth,
): Promise<PushedImage> {
  return await pushImage(host, {
    repository,
    tag: "1",
    layers: [{ path: layer.blobPath, mediaType: mediaTypes.ociLayerGzip, diffId: layer.diffId }],
    ...(auth === undefined ? {} : { auth }),
  });
}
