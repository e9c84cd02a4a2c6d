import { OcifsError } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { BlobSource } from "../blob/blob-source.js";
import type { ImageProvider } from "../blob/image-provider.js";
import type { CacheDirectory } from "../cache/cache-directory.js";
import { ImageStore } from "../cache/image-store.js";
import type { ImageConfig } from "../oci/config.js";
import type { Descriptor } from "../oci/descriptor.js";
import type { Digest } from "../oci/digest.js";
import { type ImageSource, parseImageSource } from "../oci/image-source.js";
import { type LayerEncoding, layerEncodingOf } from "../oci/media-types.js";
import { hostPlatform, parsePlatform } from "../oci/platform.js";
import type { Reference } from "../oci/reference.js";
import type { ResolvedImage } from "../oci/resolved-image.js";
import { CachedImage } from "./cached-image.js";
import { connect, type RegistryAccess } from "./connect.js";
import type { TagAnswer } from "./tag-answer.js";

/** How to reach an image; what options and subcommands have in common. */
export interface SourceOptions extends RegistryAccess {
  /** A registry reference, `oci:DIR[:tag]` or `file:PATH`. */
  readonly source: string;
  readonly platform?: string;
}

/** One layer by its number from the base, or by its digest; neither: the only one. */
export interface LayerChoice {
  readonly layer?: number;
  readonly blob?: Digest;
}

/** One layer of an image and where its bytes come from. */
export interface SourceLayer {
  readonly blob: BlobSource;
  /** By media type; a `file:` blob does not say, its index does. */
  readonly encoding: LayerEncoding | undefined;
  readonly mediaType: string | undefined;
  readonly layerNumber: number;
}

/** Where metadata of registries' images is kept; without it every opening asks the registry for all of it. */
export interface MetadataCache {
  readonly cache: CacheDirectory;
  /** Told of damage, and of a registry that could not be asked. */
  readonly log: Log;
  /** What the registry says of the source's tag, if somebody is asking it already. */
  readonly tagAnswer?: Promise<TagAnswer | undefined>;
}

/** An image, or a single blob, ready to be read. */
export class OpenSource implements AsyncDisposable {
  readonly #provider: ImageProvider | undefined;
  readonly #file: BlobSource | undefined;
  readonly resolved: ResolvedImage | undefined;
  /** Fetched once for all layers, also when several ask at a time. */
  #config: Promise<ImageConfig> | undefined;

  private constructor(
    provider: ImageProvider | undefined,
    resolved: ResolvedImage | undefined,
    file: BlobSource | undefined,
  ) {
    this.#provider = provider;
    this.resolved = resolved;
    this.#file = file;
  }

  /** Resolves the reference. Errors are those of the registry client and of the OCI layout reader. */
  static async open(options: SourceOptions, signal?: AbortSignal, kept?: MetadataCache): Promise<OpenSource> {
    const source = parseImageSource(options.source);
    if (source.kind === "file") {
      const { openFileBlob } = await import("../blob/file.js");
      const file = await openFileBlob(source.path, signal ? { signal } : {});
      return new OpenSource(undefined, undefined, file);
    }
    const provider =
      source.kind === "layout" ? await openLayout(source, signal) : await openRegistry(source.reference, options, kept);
    try {
      const platform = options.platform === undefined ? hostPlatform() : parsePlatform(options.platform);
      return new OpenSource(provider, await provider.resolve(platform, signal), undefined);
    } catch (error) {
      await provider[Symbol.asyncDispose]();
      throw error;
    }
  }

  get layerCount(): number {
    return this.resolved?.manifest.layers.length ?? 1;
  }

  /** Opens one layer's blob; it ends with this source. `usage` when the choice names none, or several are left. */
  async openLayer(choice: LayerChoice): Promise<SourceLayer> {
    if (this.#file) {
      if (choice.layer !== undefined && choice.layer !== 0) throw noSuchLayer(choice.layer, 1);
      if (choice.blob !== undefined && choice.blob !== this.#file.digest) {
        throw new OcifsError(
          "mismatch",
          `${this.#file.description}: its digest is ${this.#file.digest}, want ${choice.blob}`,
        );
      }
      return { blob: this.#file, encoding: undefined, mediaType: undefined, layerNumber: 0 };
    }
    const { number, descriptor } = this.#choose(choice);
    const encoding = layerEncodingOf(descriptor.mediaType);
    const blob = await this.#openBlob(descriptor);
    return { blob, encoding, mediaType: descriptor.mediaType, layerNumber: number };
  }

  /** The digest that the layer's uncompressed tar must have, from the image's config; undefined for a `file:` blob. */
  async fetchDiffId(layerNumber: number, signal?: AbortSignal): Promise<Digest | undefined> {
    return (await this.fetchConfig(signal))?.diffIds[layerNumber];
  }

  /** The image's config; undefined for a `file:` blob. */
  async fetchConfig(signal?: AbortSignal): Promise<ImageConfig | undefined> {
    if (!this.#provider || !this.resolved) return undefined;
    this.#config ??= this.#provider.fetchConfig(this.resolved, signal);
    return await this.#config;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]();
    await this.#provider?.[Symbol.asyncDispose]();
  }

  #openBlob(descriptor: Descriptor): Promise<BlobSource> {
    if (!this.#provider) throw new OcifsError("internal", "image: a blob was opened without a provider");
    return this.#provider.openBlob(descriptor);
  }

  #choose(choice: LayerChoice): { number: number; descriptor: Descriptor } {
    const layers = this.resolved?.manifest.layers ?? [];
    if (choice.blob !== undefined) {
      const number = layers.findIndex((layer) => layer.digest === choice.blob);
      const descriptor = layers[number];
      if (!descriptor) {
        throw new OcifsError("not-found", `layer ${choice.blob}: the image has no such layer; it has ${list(layers)}`);
      }
      return { number, descriptor };
    }
    if (choice.layer === undefined && layers.length !== 1) {
      throw new OcifsError(
        "usage",
        `the image has ${layers.length} layers and an index is of one; choose it with oci.layer=0 to ${layers.length - 1}`,
      );
    }
    const number = choice.layer ?? 0;
    const descriptor = layers[number];
    if (!descriptor) throw noSuchLayer(number, layers.length);
    return { number, descriptor };
  }
}

async function openLayout(source: ImageSource & { kind: "layout" }, signal?: AbortSignal): Promise<ImageProvider> {
  const { openOciLayout } = await import("../blob/oci-layout.js");
  return await openOciLayout(source.directory, source, signal);
}

async function openRegistry(
  reference: Reference,
  options: SourceOptions,
  kept: MetadataCache | undefined,
): Promise<ImageProvider> {
  if (kept === undefined) return await connect(reference, options);
  const { timeoutMs } = options;
  return new CachedImage({
    reference,
    store: new ImageStore(kept.cache, kept.log),
    log: kept.log,
    openRegistry: () => connect(reference, options),
    ...(kept.tagAnswer === undefined ? {} : { tagAnswer: kept.tagAnswer }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
}

function noSuchLayer(number: number, count: number): OcifsError {
  return new OcifsError(
    "not-found",
    `layer ${number}: the image has ${count} layer${count === 1 ? "" : "s"}, counted from 0`,
  );
}

function list(layers: readonly Descriptor[]): string {
  return layers.map((layer) => layer.digest).join(", ") || "none";
}
