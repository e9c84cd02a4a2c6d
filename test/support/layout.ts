import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Digest, digestOfBytes, hexOf } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";

export interface LayoutImage {
  readonly layers: readonly {
    readonly bytes: Uint8Array;
    readonly mediaType: string;
    /** Of the uncompressed bytes; needed when `bytes` are compressed. */
    readonly diffId?: Digest;
  }[];
  readonly tag?: string;
  readonly platform?: { readonly os: string; readonly architecture: string };
  /** `config` of the image's config: how to run it. */
  readonly run?: Readonly<Record<string, unknown>>;
}

export interface LayoutDescriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly [field: string]: unknown;
}

/** Writes an OCI image layout of these images; returns the entries of its index. */
export async function writeLayout(
  directory: string,
  images: readonly LayoutImage[],
  version = "1.0.0",
): Promise<readonly LayoutDescriptor[]> {
  await mkdir(join(directory, "blobs", "sha256"), { recursive: true });
  const manifests: LayoutDescriptor[] = [];
  for (const image of images) manifests.push(await writeImage(directory, image));
  await writeFile(join(directory, "oci-layout"), JSON.stringify({ imageLayoutVersion: version }));
  await writeFile(join(directory, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
  return manifests;
}

export async function writeLayoutBlob(
  directory: string,
  bytes: Uint8Array,
  mediaType: string,
): Promise<LayoutDescriptor> {
  const digest = digestOfBytes(bytes);
  await writeFile(join(directory, "blobs", "sha256", hexOf(digest)), bytes);
  return { mediaType, digest, size: bytes.length };
}

async function writeImage(directory: string, image: LayoutImage): Promise<LayoutDescriptor> {
  const layers: LayoutDescriptor[] = [];
  for (const { bytes, mediaType } of image.layers) layers.push(await writeLayoutBlob(directory, bytes, mediaType));
  const platform = image.platform ?? { os: "linux", architecture: "amd64" };
  const diffIds = image.layers.map(({ bytes, diffId }) => diffId ?? digestOfBytes(bytes));
  const rootfs = { type: "layers", diff_ids: diffIds };
  const run = image.run === undefined ? {} : { config: image.run };
  const config = await writeJson(directory, { ...platform, rootfs, ...run }, mediaTypes.ociConfig);
  const document = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers };
  const manifest = await writeJson(directory, document, mediaTypes.ociManifest);
  return {
    ...manifest,
    ...(image.platform === undefined ? {} : { platform }),
    ...(image.tag === undefined ? {} : { annotations: { "org.opencontainers.image.ref.name": image.tag } }),
  };
}

async function writeJson(directory: string, document: unknown, mediaType: string): Promise<LayoutDescriptor> {
  return await writeLayoutBlob(directory, Buffer.from(JSON.stringify(document)), mediaType);
}
