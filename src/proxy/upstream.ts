import { createHash } from "node:crypto";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { openRemoteBlob, type RemoteBlobSource } from "../blob/remote.js";
import type { ImageStore } from "../cache/image-store.js";
import { type Digest, digestOfBytes, parseDigest } from "../oci/digest.js";
import { parseManifest } from "../oci/manifest.js";
import { manifestAccept } from "../oci/media-types.js";
import { formatReference, manifestSelectorOf, type Reference } from "../oci/reference.js";
import { checkDigest } from "../oci/verify.js";
import type { RegistryClient, RelayAnswer } from "../registry/client.js";
import type { TransferCounts } from "../registry/transfer-stats.js";
import { Recent, SingleFlight } from "./recent.js";

/** How long a registry's word that somebody may read something is taken for the next requests. */
const CONFIRMED_MS = 60_000;

/** Who asks: `authorization` is what the upstream gets to see, undefined for the proxy's own login. */
export interface Caller {
  readonly id: string;
  readonly authorization: { readonly header: string | undefined } | undefined;
}

/** The proxy's own login speaks for every client. */
export const proxyItself: Caller = { id: "proxy", authorization: undefined };

/** A client that speaks for itself. Its secret is not kept to tell it from others. */
export function callerOf(header: string | undefined): Caller {
  const id = header === undefined ? "nobody" : createHash("sha256").update(header).digest("base64");
  return { id, authorization: { header } };
}

export interface ServedManifest {
  readonly bytes: Uint8Array;
  readonly digest: Digest;
  readonly mediaType: string;
}

interface Confirmed {
  readonly sizeBytes: number;
  readonly atMs: number;
}

/**
 * One registry as the proxy sees it. Nothing of a repository is told to a client unless the registry told it to this client's
 * rights (to the proxy's, where those speak for all) within the last minute, whatever the cache holds.
 */
export class Upstream implements AsyncDisposable {
  readonly #client: RegistryClient;
  readonly #store: ImageStore;
  readonly #flights = new SingleFlight();
  readonly #confirmed = new Recent<Confirmed>(limits.proxyConfirmations);
  /** Whose rights a blob was last read with: a download that is resumed goes on with those that are fresh. */
  readonly #granted = new Recent<Caller>(limits.proxyConfirmations);

  /** Takes over the client. */
  constructor(client: RegistryClient, store: ImageStore) {
    this.#client = client;
    this.#store = store;
  }

  get registry(): string {
    return this.#client.registry;
  }

  stats(): TransferCounts {
    return this.#client.stats();
  }

  /** Asks `/v2/` itself: a client that logs in at the registry learns here how. */
  async ping({ authorization }: Caller, signal: AbortSignal): Promise<void> {
    const what = `registry ${this.registry}`;
    await this.#client.relay({ path: "", repository: "", headers: {}, authorization, what, maxBytes: 0 }, signal);
  }

  /** A tag is asked for each time (HEAD); what is in the cache by its digest is not fetched again. */
  async manifest(
    caller: Caller,
    reference: Reference,
    accept: string | undefined,
    signal: AbortSignal,
  ): Promise<ServedManifest> {
    const key = `manifest ${caller.id} ${formatReference(reference)} ${accept ?? ""}`;
    return await this.#flights.run(key, signal, () => this.#manifest(caller, reference, accept ?? manifestAccept));
  }

  async #manifest(caller: Caller, reference: Reference, accept: string): Promise<ServedManifest> {
    const { digest } = reference;
    const known = digest === undefined ? undefined : await this.#store.readManifest(digest);
    if (digest !== undefined && known !== undefined && this.#isConfirmed(caller, reference.repository, digest)) {
      return fromStore(known, digest);
    }
    if (digest === undefined || known !== undefined) {
      const meant = await this.#askManifest(caller, reference, accept);
      const kept = meant === undefined ? undefined : await this.#store.readManifest(meant);
      if (meant !== undefined && kept !== undefined && (digest === undefined || meant === digest)) {
        this.#confirm(caller, reference.repository, meant, kept.length);
        return fromStore(kept, meant);
      }
    }
    return await this.#fetchManifest(caller, reference, accept);
  }

  async #askManifest({ authorization }: Caller, reference: Reference, accept: string): Promise<Digest | undefined> {
    const what = `manifest ${formatReference(reference)}`;
    const answer = await this.#client.relay({
      method: "HEAD",
      path: `manifests/${manifestSelectorOf(reference)}`,
      repository: reference.repository,
      headers: { accept },
      authorization,
      what,
      maxBytes: 0,
    });
    return declaredDigest(answer);
  }

  async #fetchManifest(caller: Caller, reference: Reference, accept: string): Promise<ServedManifest> {
    const what = `manifest ${formatReference(reference)}`;
    const answer = await this.#client.relay({
      path: `manifests/${manifestSelectorOf(reference)}`,
      repository: reference.repository,
      headers: { accept },
      authorization: caller.authorization,
      what,
      maxBytes: limits.manifestBytes,
    });
    const { bytes } = answer;
    const declared = declaredDigest(answer);
    for (const wanted of [reference.digest, declared]) if (wanted !== undefined) checkDigest(bytes, wanted, what);
    const digest = reference.digest ?? declared ?? digestOfBytes(bytes);
    const declaredType = answer.header("content-type");
    let mediaType = declaredType;
    try {
      mediaType = parseManifest(bytes, what, declaredType).mediaType;
      await this.#store.writeManifest(digest, bytes);
    } catch (error) {
      // Something newer than us, or older: passed on as it is and not kept.
      if (!isOcifsError(error)) throw error;
      if (mediaType === undefined) throw new OcifsError("corrupt", `${what}: ${messageOf(error)}`, { cause: error });
    }
    this.#confirm(caller, reference.repository, digest, bytes.length);
    return { bytes, digest, mediaType: mediaType ?? "application/octet-stream" };
  }

  /** The size of a blob that this caller may read in this repository; the registry is asked, and nothing else. */
  async blobSize(caller: Caller, repository: string, digest: Digest, signal: AbortSignal): Promise<number> {
    const confirmed = this.#isConfirmed(caller, repository, digest);
    if (confirmed) {
      this.#granted.set(`${repository} ${digest}`, caller);
      return confirmed.sizeBytes;
    }
    return await this.#flights.run(`blob ${caller.id} ${repository} ${digest}`, signal, async () => {
      const sizeBytes = await this.#askBlob(caller, repository, digest);
      this.#confirm(caller, repository, digest, sizeBytes);
      this.#granted.set(`${repository} ${digest}`, caller);
      return sizeBytes;
    });
  }

  async #askBlob({ authorization }: Caller, repository: string, digest: Digest): Promise<number> {
    const what = `blob ${this.registry}/${repository}@${digest}`;
    const request = { path: `blobs/${digest}`, repository, authorization, what, maxBytes: 0 } as const;
    const head = await this.#client.relay({ ...request, method: "HEAD", headers: { accept: "*/*" } });
    let size = head.header("content-length");
    if (size === undefined) {
      const range = await this.#client.relay({ ...request, headers: { accept: "*/*", range: "bytes=0-0" } });
      size = range.status === 206 ? range.header("content-range")?.split("/")[1] : range.header("content-length");
    }
    if (size === undefined || !/^\d{1,15}$/.test(size) || Number(size) > limits.blobBytes) {
      throw new OcifsError("mismatch", `${what}: the registry does not say how long it is, or more than is possible`);
    }
    return Number(size);
  }

  /** Close it when it is done with. Fetches with the rights of whoever was confirmed last. */
  openBlob(repository: string, digest: Digest, sizeBytes: number): RemoteBlobSource {
    const { authorization } = this.#granted.get(`${repository} ${digest}`) ?? proxyItself;
    if (authorization === undefined) return openRemoteBlob(this.#client, repository, { digest, sizeBytes });
    return openRemoteBlob(this.#client, repository, { digest, sizeBytes }, () => {
      const caller = this.#granted.get(`${repository} ${digest}`);
      return caller?.authorization ?? authorization;
    });
  }

  /** Tags and referrers, as the registry answers. */
  async list(
    { authorization }: Caller,
    repository: string,
    path: string,
    accept: string,
    signal: AbortSignal,
  ): Promise<RelayAnswer> {
    const what = `${path.split("?", 1)[0]} of ${this.registry}/${repository}`;
    return await this.#client.relay(
      { path, repository, headers: { accept }, authorization, what, maxBytes: limits.manifestBytes },
      signal,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client[Symbol.asyncDispose]();
  }

  #isConfirmed(caller: Caller, repository: string, digest: Digest): Confirmed | undefined {
    const confirmed = this.#confirmed.get(`${caller.id} ${repository} ${digest}`);
    return confirmed !== undefined && performance.now() - confirmed.atMs < CONFIRMED_MS ? confirmed : undefined;
  }

  #confirm(caller: Caller, repository: string, digest: Digest, sizeBytes: number): void {
    this.#confirmed.set(`${caller.id} ${repository} ${digest}`, { sizeBytes, atMs: performance.now() });
  }
}

function fromStore(bytes: Uint8Array, digest: Digest): ServedManifest {
  return { bytes, digest, mediaType: parseManifest(bytes, `manifest ${digest}`).mediaType };
}

function declaredDigest(answer: RelayAnswer): Digest | undefined {
  const text = answer.header("docker-content-digest");
  return text === undefined ? undefined : parseDigest(text.trim());
}
