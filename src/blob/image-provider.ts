import type { ImageConfig } from "../oci/config.js";
import type { Descriptor } from "../oci/descriptor.js";
import type { Platform } from "../oci/platform.js";
import type { ResolvedImage } from "../oci/resolved-image.js";
import type { BlobSource } from "./blob-source.js";

/** One image, wherever it is stored. Implementations: a registry, an OCI layout directory. */
export interface ImageProvider extends AsyncDisposable {
  /** For messages and logs; holds no secret. */
  readonly description: string;
  /** The manifest of the platform that serves `platform` best; digests are checked. */
  resolve(platform: Platform, signal?: AbortSignal): Promise<ResolvedImage>;
  /** The config of a resolved image, with a diffID for each of its layers. */
  fetchConfig(image: ResolvedImage, signal?: AbortSignal): Promise<ImageConfig>;
  /** One of the image's blobs. It ends with the provider, or when closed itself. */
  openBlob(descriptor: Descriptor): Promise<BlobSource>;
}
