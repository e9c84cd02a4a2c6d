import { randomUUID } from "node:crypto";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { MetadataCache, SourceOptions } from "../image/open-source.js";
import { OpenSource } from "../image/open-source.js";
import { mediaTypes } from "../oci/media-types.js";
import { formatReference, parseReference } from "../oci/reference.js";
import type { ResolvedImage } from "../oci/resolved-image.js";
import { ContainerdClient } from "./containerd-client.js";
import { chainIdOf, snapshotLabels } from "./lazy-images.js";

/** A pull that is killed leaves a lease, which containerd ends after this time. */
const LEASE_MS = 60 * 60 * 1000;

export interface PullOptions {
  /** containerd's socket. */
  readonly address: string;
  readonly namespace: string;
  readonly snapshotter: string;
  readonly source: SourceOptions;
  readonly kept: MetadataCache;
}

/**
 * Makes an image known to containerd as a pull does, with manifest and config, but without a byte of its layers: for each one
 * the snapshotter is asked, as containerd's own unpacker asks it. Throws `unsupported` when it does not take them. Returns the
 * image's name there.
 */
export async function pullLazily(options: PullOptions, signal: AbortSignal): Promise<string> {
  const { address, namespace, snapshotter, source, kept } = options;
  const reference = parseReference(source.source);
  const name = formatReference(reference);
  await using image = await OpenSource.open({ ...source, source: name }, signal, kept);
  const config = await image.fetchConfig(signal);
  const { resolved } = image;
  if (resolved === undefined || config === undefined) throw new OcifsError("internal", `${name}: it has no manifest`);
  using client = new ContainerdClient(address, namespace);
  const lease = `ocifs-pull-${randomUUID()}`;
  await client.createLease(lease, new Date(Date.now() + LEASE_MS));
  try {
    let chainId: string | undefined;
    for (const [layer, diffId] of config.diffIds.entries()) {
      throwIfAborted(signal, "pull");
      const parent = chainId ?? "";
      chainId = chainIdOf(chainId, diffId);
      await putLayer(client, snapshotter, { chainId, parent, name, resolved, layer });
    }
    await putDocuments(client, options, resolved, config.bytes, chainId);
    const [root] = resolved.documents;
    const bytes = root?.bytes ?? resolved.manifestBytes;
    const mediaType = mediaTypeOf(bytes);
    await client.putImage(name, { mediaType, digest: resolved.rootDigest, sizeBytes: bytes.length });
  } finally {
    await client.deleteLease(lease);
  }
  return name;
}

interface Layer {
  readonly chainId: string;
  readonly parent: string;
  readonly name: string;
  readonly resolved: ResolvedImage;
  readonly layer: number;
}

async function putLayer(client: ContainerdClient, snapshotter: string, what: Layer): Promise<void> {
  const { chainId, parent, name, resolved, layer } = what;
  if (await client.hasSnapshot(snapshotter, chainId)) return;
  const key = `extract-ocifs-${randomUUID()} ${chainId}`;
  const labels = {
    [snapshotLabels.ref]: chainId,
    [snapshotLabels.imageRef]: name,
    [snapshotLabels.manifestDigest]: resolved.manifestDigest,
    [snapshotLabels.layerDigest]: resolved.manifest.layers[layer]?.digest ?? "",
  };
  if (await client.prepareSnapshot(snapshotter, key, parent, labels)) return;
  await client.removeSnapshot(snapshotter, key);
  throw new OcifsError(
    "unsupported",
    `pull of ${name}: the snapshotter "${snapshotter}" does not mount layer ${layer}; its log says why; ` +
      `pull the image with "ctr images pull --snapshotter ${snapshotter}"`,
  );
}

/** With the labels by which containerd's garbage collection finds its way from the image to its snapshots. */
async function putDocuments(
  client: ContainerdClient,
  { source, snapshotter }: PullOptions,
  { manifest, manifestDigest, documents }: ResolvedImage,
  config: Uint8Array,
  topChainId: string | undefined,
): Promise<void> {
  const { registry, repository } = parseReference(source.source);
  const origin = { [`containerd.io/distribution.source.${registry}`]: repository };
  const snapshot = topChainId === undefined ? {} : { [`containerd.io/gc.ref.snapshot.${snapshotter}`]: topChainId };
  await client.writeContent(manifest.config.digest, config, { ...origin, ...snapshot });
  for (const [at, { digest, bytes }] of [...documents.entries()].reverse()) {
    const next = documents[at + 1];
    const references: Record<string, string> =
      digest === manifestDigest
        ? {
            "containerd.io/gc.ref.content.config": manifest.config.digest,
            ...Object.fromEntries(manifest.layers.map((l, n) => [`containerd.io/gc.ref.content.l.${n}`, l.digest])),
          }
        : { "containerd.io/gc.ref.content.m.0": next?.digest ?? manifestDigest };
    await client.writeContent(digest, bytes, { ...origin, ...references });
  }
}

/** What a document says it is; OCI allows it to say nothing. */
function mediaTypeOf(bytes: Uint8Array): string {
  const { mediaType, manifests } = JSON.parse(Buffer.from(bytes).toString("utf8")) as Record<string, unknown>;
  if (typeof mediaType === "string") return mediaType;
  return manifests === undefined ? mediaTypes.ociManifest : mediaTypes.ociIndex;
}
