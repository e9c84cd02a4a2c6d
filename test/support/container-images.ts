import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import type { Digest } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { buildTool } from "./containerd.js";
import { noise } from "./gzip.js";
import { pushImage } from "./registry.js";
import { buildTar, type TarItem } from "./tar-builder.js";

export interface ContainerLayer {
  readonly gz: Buffer;
  readonly diffId: Digest;
}

export function containerLayer(items: readonly TarItem[]): ContainerLayer {
  const tar = buildTar(items);
  return { gz: gzipSync(tar), diffId: `sha256:${createHash("sha256").update(tar).digest("hex")}` };
}

const directories = ["etc", "proc", "sys", "dev", "tmp", "run"].map(
  (path): TarItem => ({ path: `${path}/`, type: "directory", mode: 0o755 }),
);

/** A base layer with a program in it, `/tool`. */
export async function baseLayer(workDirectory: string): Promise<ContainerLayer> {
  const data = await readFile(await buildTool(workDirectory));
  return containerLayer([
    ...directories,
    { path: "tool", data, mode: 0o755 },
    { path: "etc/hello", data: "hello from the base\n" },
    { path: "etc/gone", data: "gone\n" },
  ]);
}

/** A layer that says who it is, hides a file of the base, and has a megabyte that nobody reads. */
export function appLayer(name: string): ContainerLayer {
  return containerLayer([
    { path: "etc/hello", data: `hello from ${name}\n` },
    { path: "etc/.wh.gone", data: "" },
    { path: "etc/ballast", data: noise(1 << 20, name.length) },
  ]);
}

/** Pushes an image of these layers: its reference. */
export async function pushContainerImage(
  host: string,
  repository: string,
  layers: readonly ContainerLayer[],
): Promise<string> {
  await pushImage(host, {
    repository,
    tag: "v1",
    layers: layers.map(({ gz, diffId }) => ({ bytes: gz, diffId, mediaType: mediaTypes.ociLayerGzip })),
    config: { config: { Cmd: ["/tool", "cat", "/etc/hello"] } },
  });
  return `${host}/${repository}:v1`;
}
