import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Log } from "../base/log.js";
import type { BlobSource } from "../blob/blob-source.js";
import { DeferredBlobSource } from "../blob/deferred.js";
import type { ImageProvider } from "../blob/image-provider.js";
import type { RegistryImage } from "../blob/registry-image.js";
import type { ImageStore, KnownReference } from "../cache/image-store.js";
import { tagKeyOf } from "../cache/tag-record.js";
import { checkConfigOfManifest, type ImageConfig, parseImageConfig } from "../oci/config.js";
import type { Descriptor } from "../oci/descriptor.js";
import type { Digest } from "../oci/digest.js";
import type { Platform } from "../oci/platform.js";
import { formatReference, type Reference } from "../oci/reference.js";
import { resolveImage } from "../oci/resolve.js";
import type { ResolvedImage } from "../oci/resolved-image.js";
import { formatAge } from "./age.js";
import { askForTag, type TagAnswer } from "./tag-answer.js";

export interface CachedImageOptions {
  readonly reference: Reference;
  readonly store: ImageStore;
  readonly log: Log;
  /** Opens the image in its registry, at the first request; ended with this image. */
  readonly openRegistry: () => Promise<RegistryImage>;
  /** Of the mount; a shorter one also shortens the wait for a registry that does not answer. */
  readonly timeoutMs?: number;
  /** What the registry says of the tag, if somebody is asking it already; undefined: ask. */
  readonly tagAnswer?: Promise<TagAnswer | undefined>;
}

/**
 * An image of a registry whose manifest and config are kept. A digest needs no request once they are there. A tag is asked
 * for each time; while the registry cannot be reached it means what it last meant, with a warning. A registry that answers is
 * believed, also when it says that there is no such image any more.
 */
export class CachedImage implements ImageProvider {
  readonly description: string;
  readonly #options: CachedImageOptions;
  #registry: Promise<RegistryImage> | undefined;
  #closed = false;

  constructor(options: CachedImageOptions) {
    this.#options = options;
    this.description = `image ${formatReference(options.reference)}`;
  }

  async resolve(platform: Platform, signal?: AbortSignal): Promise<ResolvedImage> {
    const { digest } = this.#options.reference;
    if (digest === undefined) return await this.#resolveTag(platform, signal);
    return (await this.#load(digest, platform)) ?? (await this.#fetch(platform, signal));
  }

  async fetchConfig(image: ResolvedImage, signal?: AbortSignal): Promise<ImageConfig> {
    const { store } = this.#options;
    const { manifestDigest, manifest } = image;
    const kept = await store.readConfig(manifestDigest, manifest.config.digest);
    if (kept !== undefined) {
      const what = `config ${manifest.config.digest}`;
      const config = parseImageConfig(kept, what);
      checkConfigOfManifest(config, manifest, what);
      return config;
    }
    const config = await (await this.#open()).fetchConfig(image, signal);
    await store.writeConfig(manifestDigest, config.bytes);
    return config;
  }

  async openBlob(descriptor: Descriptor): Promise<BlobSource> {
    const { registry, repository } = this.#options.reference;
    const description = `blob ${registry}/${repository}@${descriptor.digest}`;
    return new DeferredBlobSource(descriptor, description, async () => (await this.#open()).openBlob(descriptor));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    // An opening that failed has nothing to close; whoever asked for it was told.
    const registry = await this.#registry?.catch(() => undefined);
    await registry?.[Symbol.asyncDispose]();
  }

  async #resolveTag(platform: Platform, signal: AbortSignal | undefined): Promise<ResolvedImage> {
    const { reference, store, timeoutMs } = this.#options;
    const key = tagKeyOf(reference, platform);
    const known = await store.readTag(key);
    const last = known && (await this.#load(known.rootDigest, platform));
    if (known === undefined || last === undefined) return await this.#fetch(platform, signal);
    const answer = (await this.#options.tagAnswer) ?? (await askForTag(await this.#open(), timeoutMs, signal));
    throwIfAborted(signal, this.description);
    if (answer.kind === "outage") {
      this.#warnOfOutage(last, known, answer.reason);
      return last;
    }
    const digest = answer.kind === "digest" ? answer.digest : undefined;
    const image = digest === undefined || digest === known.rootDigest ? last : await this.#load(digest, platform);
    // Asked for the manifest itself, a registry also explains what it could not in answer to a HEAD.
    if (digest === undefined || image === undefined) return await this.#fetch(platform, signal);
    await store.writeTag(key, image.rootDigest, known);
    return image;
  }

  /** From the registry, into the store. */
  async #fetch(platform: Platform, signal: AbortSignal | undefined): Promise<ResolvedImage> {
    const { reference, store } = this.#options;
    const image = await (await this.#open()).resolve(platform, signal);
    for (const { digest, bytes } of image.documents) await store.writeManifest(digest, bytes);
    // Last, so that what it leads to is there.
    if (reference.digest === undefined) await store.writeTag(tagKeyOf(reference, platform), image.rootDigest);
    return image;
  }

  /** What a digest leads to, as far as all of it is kept. */
  async #load(rootDigest: Digest, platform: Platform): Promise<ResolvedImage | undefined> {
    const { store } = this.#options;
    const bytes = await store.readManifest(rootDigest);
    if (bytes === undefined) return undefined;
    let absent = false;
    try {
      const root = { bytes, digest: rootDigest, declaredType: undefined };
      return await resolveImage(root, platform, this.description, async ({ digest }) => {
        const found = await store.readManifest(digest);
        if (found !== undefined) return found;
        absent = true;
        throw new OcifsError("not-found", `${this.description}: manifest ${digest} is not in the cache`);
      });
    } catch (error) {
      if (absent) return undefined;
      throw error;
    }
  }

  #warnOfOutage(image: ResolvedImage, known: KnownReference, reason: string): void {
    const age = formatAge(Date.now() - known.confirmedAt.getTime());
    this.#options.log.warn(
      `${this.description}: its registry cannot be asked; using what the tag meant ${age} ago, ${image.manifestDigest}`,
      { reason },
    );
  }

  #open(): Promise<RegistryImage> {
    if (this.#closed) throw new OcifsError("aborted", `${this.description}: it is closed`);
    this.#registry ??= this.#options.openRegistry().catch((error: unknown) => {
      // A login that could not be read may be readable by the time of the next request.
      this.#registry = undefined;
      throw error;
    });
    return this.#registry;
  }
}
