import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BlobSource } from "../../src/blob/blob-source.js";
import { DeferredBlobSource } from "../../src/blob/deferred.js";
import { openFileBlob } from "../../src/blob/file.js";
import type { ImageProvider } from "../../src/blob/image-provider.js";
import { openOciLayout } from "../../src/blob/oci-layout.js";
import { openRegistryImage } from "../../src/blob/registry-image.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { writeLayout } from "../support/layout.js";
import { pushImage, startRegistry } from "../support/registry.js";
import { testBlobSource } from "./blob-source.js";

async function withDirectory(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "ocifs-blob-"));
  try {
    await use(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function useFirstLayer(image: ImageProvider, use: (source: BlobSource) => Promise<void>): Promise<void> {
  const { manifest } = await image.resolve(parsePlatform("linux/amd64"));
  const [layer] = manifest.layers;
  if (layer === undefined) throw new Error("the image has no layer");
  await using source = await image.openBlob(layer);
  await use(source);
}

testBlobSource("file", (bytes, use) =>
  withDirectory(async (directory) => {
    const path = join(directory, "blob");
    await writeFile(path, bytes);
    await using source = await openFileBlob(path);
    await use(source);
  }),
);

testBlobSource("OCI layout", (bytes, use) =>
  withDirectory(async (directory) => {
    await writeLayout(directory, [{ layers: [{ bytes, mediaType: mediaTypes.ociLayerTar }] }]);
    await using image = await openOciLayout(directory);
    await useFirstLayer(image, use);
  }),
);

testBlobSource("deferred", (bytes, use) =>
  withDirectory(async (directory) => {
    await writeLayout(directory, [{ layers: [{ bytes, mediaType: mediaTypes.ociLayerTar }] }]);
    await using image = await openOciLayout(directory);
    const { manifest } = await image.resolve(parsePlatform("linux/amd64"));
    const [layer] = manifest.layers;
    if (layer === undefined) throw new Error("the image has no layer");
    await using source = new DeferredBlobSource(layer, "deferred blob", () => image.openBlob(layer));
    await use(source);
  }),
);

testBlobSource("registry", async (bytes, use) => {
  const registry = await startRegistry();
  try {
    const layers = [{ bytes, mediaType: mediaTypes.ociLayerTar }];
    await pushImage(registry.host, { layers, repository: "a", tag: "b" });
    await using image = openRegistryImage(parseReference(`${registry.host}/a:b`), { insecure: true });
    await useFirstLayer(image, use);
  } finally {
    await registry.stop();
  }
});
