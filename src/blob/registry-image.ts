import type { ImageConfig } from "../oci/config.js";
import type { Descriptor } from "../oci/descriptor.js";
import type { Digest } from "../oci/digest.js";
import type { Platform } from "../oci/platform.js";
import { formatReference, type Reference } from "../oci/reference.js";
import type { ResolvedImage } from "../oci/resolved-image.js";
import { RegistryClient, type RegistryClientOptions } from "../registry/client.js";
import type { TransferCounts } from "../registry/transfer-stats.js";
import type { ImageProvider } from "./image-provider.js";
import { openRemoteBlob, type RemoteBlobSource } from "./remote.js";

/** An image of a registry, with a client of its own. Nothing is requested yet. */
export function openRegistryImage(reference: Reference, options: RegistryClientOptions = {}): RegistryImage {
  return new RegistryImage(reference, new RegistryClient(reference.registry, options));
}

export class RegistryImage implements ImageProvider {
  readonly reference: Reference;
  readonly description: string;
  readonly #client: RegistryClient;

  /** Takes over the client. */
  constructor(reference: Reference, client: RegistryClient) {
    this.reference = reference;
    this.description = `image ${formatReference(reference)}`;
    this.#client = client;
  }

  async resolve(platform: Platform, signal?: AbortSignal): Promise<ResolvedImage> {
    return await this.#client.resolve(this.reference, platform, signal);
  }

  /** See RegistryClient.fetchTagDigest. */
  async fetchTagDigest(limitMs: number, signal?: AbortSignal): Promise<Digest | undefined> {
    return await this.#client.fetchTagDigest(this.reference, limitMs, signal);
  }

  async fetchConfig(image: ResolvedImage, signal?: AbortSignal): Promise<ImageConfig> {
    return await this.#client.fetchConfig(this.reference.repository, image, signal);
  }

  async openBlob(descriptor: Descriptor): Promise<RemoteBlobSource> {
    return openRemoteBlob(this.#client, this.reference.repository, descriptor);
  }

  stats(): TransferCounts {
    return this.#client.stats();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client[Symbol.asyncDispose]();
  }
}
