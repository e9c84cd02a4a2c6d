import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { type Handler, serveBytes } from "./faulty-server.js";
import { toJson } from "./scripted-registry.js";

export interface DescribedLayer {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly diffId: Digest;
}

/** Answers a request for the manifest or the config of an image of these gzip layers. False when it asks for something else. */
export function serveDocuments(
  layers: readonly DescribedLayer[],
  ...[request, response]: Parameters<Handler>
): boolean {
  const config = toJson({
    os: "linux",
    architecture: process.arch === "arm64" ? "arm64" : "amd64",
    rootfs: { type: "layers", diff_ids: layers.map(({ diffId }) => diffId) },
  });
  const manifest = toJson({
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: { mediaType: mediaTypes.ociConfig, digest: digestOfBytes(config), size: config.length },
    layers: layers.map(({ digest, sizeBytes }) => ({ mediaType: mediaTypes.ociLayerGzip, digest, size: sizeBytes })),
  });
  if (request.url.includes("/manifests/")) {
    response.writeHead(200, { "content-type": mediaTypes.ociManifest, "content-length": manifest.length });
    response.end(manifest);
    return true;
  }
  if (!request.url.endsWith(digestOfBytes(config))) return false;
  serveBytes(config, request, response);
  return true;
}
