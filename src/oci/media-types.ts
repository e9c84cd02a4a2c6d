import { OcifsError } from "../base/errors.js";

/** OCI image spec `media-types.md`; Docker's from distribution `manifest-v2-2.md`. */
export const mediaTypes = {
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerManifestList: "application/vnd.docker.distribution.manifest.list.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  ociLayerTar: "application/vnd.oci.image.layer.v1.tar",
  ociLayerGzip: "application/vnd.oci.image.layer.v1.tar+gzip",
  ociLayerZstd: "application/vnd.oci.image.layer.v1.tar+zstd",
  dockerLayerTar: "application/vnd.docker.image.rootfs.diff.tar",
  dockerLayerGzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
  dockerLayerZstd: "application/vnd.docker.image.rootfs.diff.tar.zstd",
} as const;

const schema1Types: ReadonlySet<string> = new Set([
  "application/vnd.docker.distribution.manifest.v1+json",
  "application/vnd.docker.distribution.manifest.v1+prettyjws",
]);

/** In the order of preference; sent as the Accept header of manifest requests. */
export const manifestAccept = [
  mediaTypes.ociIndex,
  mediaTypes.dockerManifestList,
  mediaTypes.ociManifest,
  mediaTypes.dockerManifest,
].join(", ");

/** Lower case, without parameters such as `; charset=utf-8`. */
export function bareMediaType(text: string): string {
  return (text.split(";", 1)[0] ?? "").trim().toLowerCase();
}

export type ManifestKind = "manifest" | "index" | "schema1";

/** What a document of this media type is, or undefined when the type says nothing about it. */
export function manifestKindOf(mediaType: string): ManifestKind | undefined {
  const bare = bareMediaType(mediaType);
  if (bare === mediaTypes.ociManifest || bare === mediaTypes.dockerManifest) return "manifest";
  if (bare === mediaTypes.ociIndex || bare === mediaTypes.dockerManifestList) return "index";
  return schema1Types.has(bare) ? "schema1" : undefined;
}

export type LayerEncoding = "gzip" | "tar" | "zstd";

const layerFamilies: readonly { readonly prefix: string; readonly separator: string }[] = [
  { prefix: "application/vnd.oci.image.layer.v1.tar", separator: "+" },
  { prefix: "application/vnd.oci.image.layer.nondistributable.v1.tar", separator: "+" },
  { prefix: "application/vnd.docker.image.rootfs.diff.tar", separator: "." },
  { prefix: "application/vnd.docker.image.rootfs.foreign.diff.tar", separator: "." },
];

/**
 * How a layer's tar is encoded, by its media type. The non-distributable (OCI) and foreign (Docker) variants have the same
 * encodings; their bytes may have to be fetched from the descriptor's `urls`, see {@link isForeignLayer}.
 * Throws `unsupported` naming the type, e.g. for encrypted layers and for blobs that are no layers.
 */
export function layerEncodingOf(mediaType: string): LayerEncoding {
  const bare = bareMediaType(mediaType);
  for (const { prefix, separator } of layerFamilies) {
    if (bare === prefix) return "tar";
    if (bare === `${prefix}${separator}gzip`) return "gzip";
    if (bare === `${prefix}${separator}zstd`) return "zstd";
  }
  if (bare.endsWith("+encrypted")) {
    throw new OcifsError("unsupported", `layer media type "${bare}": encrypted layers cannot be mounted`);
  }
  throw new OcifsError("unsupported", `layer media type "${bare}": want a tar, tar+gzip or tar+zstd layer`);
}

/** True for layers that a registry need not store. */
export function isForeignLayer(mediaType: string): boolean {
  const bare = bareMediaType(mediaType);
  return bare.includes(".layer.nondistributable.") || bare.includes(".rootfs.foreign.");
}
