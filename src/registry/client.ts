import { rootCertificates } from "node:tls";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { checkConfigOfManifest, type ImageConfig, parseImageConfig } from "../oci/config.js";
import type { Descriptor } from "../oci/descriptor.js";
import { type Digest, digestOfBytes, parseDigest } from "../oci/digest.js";
import { manifestAccept } from "../oci/media-types.js";
import type { Platform } from "../oci/platform.js";
import { apiHostOf, dockerHub, formatReference, manifestSelectorOf, type Reference } from "../oci/reference.js";
import { resolveImage } from "../oci/resolve.js";
import type { ResolvedImage } from "../oci/resolved-image.js";
import { checkContent, checkDigest } from "../oci/verify.js";
import { LinkedSignal } from "./abort.js";
import { AddressPolicy, type Resolver } from "./address-policy.js";
import { Authenticator } from "./auth.js";
import { BlobFetcher, type BlobFetcherContext, type BlobLocation } from "./blob-fetcher.js";
import { type Clock, systemClock } from "./clock.js";
import { anonymous, type CredentialProvider } from "./credential.js";
import { Endpoint, Endpoints } from "./endpoint.js";
import type { HttpResponse } from "./http-response.js";
import { PriorityGate } from "./priority-gate.js";
import { isUnreachable, RegistryError } from "./registry-error.js";
import type { RegistryHost, RegistryHosts } from "./registry-hosts.js";
import { type RegistryRequest, Requester } from "./requester.js";
import { defaultRetryPolicy, RetryBudget, type RetryPolicy, withRetry } from "./retry.js";
import { type TransferCounts, TransferStats } from "./transfer-stats.js";
import { Transport } from "./transport.js";

export interface RegistryClientOptions {
  /** Speak http:// to the registry at its name. Refused for Docker Hub. Without it only https, with certificates verified. */
  readonly insecure?: boolean;
  readonly credentials?: CredentialProvider;
  /** Blob transfers at once. Default 8; a few more connections are kept for manifests and tokens. */
  readonly transfers?: number;
  /** How long failures without progress are retried. Default 60 s. */
  readonly timeoutMs?: number;
  /** Defaults 10 s, 30 s and 30 s, none longer than `timeoutMs`. */
  readonly connectTimeoutMs?: number;
  readonly headersTimeoutMs?: number;
  readonly bodyTimeoutMs?: number;
  /** PEM certificates to trust instead of the system's. */
  readonly ca?: string;
  /** Mirrors that are asked first, and how to speak to the registry. */
  readonly hosts?: RegistryHosts | undefined;
  /** For tests. */
  readonly retryBaseDelayMs?: number;
  readonly clock?: Clock;
  readonly resolver?: Resolver;
}

/** A mirror is near, or it is none; whoever waits for a tag waits for the registry behind it as well. */
const mirrorConnectMs = 3_000;
/** Connections beyond the blob transfers, so that a manifest or a token never waits behind a body nobody reads. */
const spareConnections = 2;

interface Document {
  readonly bytes: Uint8Array;
  readonly contentType: string | undefined;
}

interface DocumentRequest {
  readonly path: string;
  readonly repository: string;
  readonly accept: string;
  readonly maxBytes: number;
  readonly what: string;
  /** Throws for bytes that are not what was asked for: the next server may have them. */
  readonly check: (bytes: Uint8Array) => void;
}

/** One request as it is, for who passes the answer on. */
export interface RelayRequest
  extends Pick<RegistryRequest, "method" | "path" | "repository" | "headers" | "authorization"> {
  /** Operation and object, the start of every message. */
  readonly what: string;
  /** Most bytes of a body that are read; 0: none, the connection is closed if there are any. */
  readonly maxBytes: number;
}

export interface RelayAnswer {
  readonly status: number;
  readonly bytes: Uint8Array;
  readonly header: (name: string) => string | undefined;
}

/** Reads images from one registry (OCI distribution spec 1.1, pull). Close it to end everything it has under way. */
export class RegistryClient implements AsyncDisposable {
  /** Canonical name, as in {@link Reference}. */
  readonly registry: string;
  readonly #transports: Transport[] = [];
  readonly #endpoints: Endpoints;
  readonly #auths: Authenticator[] = [];
  readonly #stats = new TransferStats();
  readonly #lifetime = new AbortController();
  readonly #blobs: BlobFetcherContext;
  readonly #clock: Clock;
  readonly #retry: RetryPolicy;

  /** Connects to nothing yet. Throws `usage` for `insecure` access to Docker Hub. */
  constructor(registry: string, options: RegistryClientOptions = {}) {
    const insecure = options.insecure ?? false;
    if (insecure && registry === dockerHub) {
      throw new OcifsError("usage", "oci.insecure: refused for Docker Hub, which is always https");
    }
    const timeoutMs = options.timeoutMs ?? defaultRetryPolicy.timeoutMs;
    const bodyTimeoutMs = Math.min(options.bodyTimeoutMs ?? 30_000, timeoutMs);
    const transfers = options.transfers ?? 8;
    this.registry = registry;
    this.#clock = options.clock ?? systemClock;
    this.#retry = {
      ...defaultRetryPolicy,
      timeoutMs,
      ...(options.retryBaseDelayMs === undefined ? {} : { baseDelayMs: options.retryBaseDelayMs }),
    };
    const connectTimeoutMs = options.connectTimeoutMs ?? 10_000;
    const connect = (host: RegistryHost, plain: boolean, connectMaxMs: number): Endpoint => {
      const transport = new Transport({
        registryUrl: host.url,
        addressPolicy: new AddressPolicy(host.url, options.resolver),
        insecure: plain,
        connections: transfers + spareConnections,
        connectTimeoutMs: Math.min(connectMaxMs, timeoutMs),
        headersTimeoutMs: Math.min(options.headersTimeoutMs ?? 30_000, timeoutMs),
        bodyTimeoutMs,
        headers: host.headers,
        // Said together, since what Node is given replaces what it trusts by itself.
        ca: host.tls.ca.length > 0 ? [...rootCertificates, ...host.tls.ca] : options.ca,
        client: host.tls.client,
        skipVerify: host.tls.skipVerify,
      });
      const isRegistry = host.url.host === new URL(`${host.url.protocol}//${apiHostOf(registry)}`).host;
      const name = isRegistry ? registry : host.url.host;
      const auth = new Authenticator(name, options.credentials ?? anonymous, transport, this.#clock, this.#stats);
      this.#transports.push(transport);
      this.#auths.push(auth);
      const requester = new Requester(host.url, isRegistry ? undefined : registry, transport, auth, this.#clock);
      return new Endpoint(requester, host);
    };
    const { mirrors = [], server } = options.hosts ?? {};
    const own = server ?? atItsName(registry, insecure);
    this.#endpoints = new Endpoints(
      mirrors.map((mirror) =>
        connect(mirror, mirror.url.protocol === "http:", Math.min(mirrorConnectMs, connectTimeoutMs)),
      ),
      connect(own, insecure || own.url.protocol === "http:", connectTimeoutMs),
      this.#clock,
    );
    this.#blobs = {
      endpoints: this.#endpoints,
      gate: new PriorityGate(transfers),
      clock: this.#clock,
      retry: this.#retry,
      stallTimeoutMs: bodyTimeoutMs,
      activity: { lastMs: performance.now() },
      lifetime: this.#lifetime.signal,
    };
  }

  /**
   * Finds the manifest that a reference means on a platform. Every document's digest is computed and compared with the one
   * asked for and with Docker-Content-Digest. A reference to a single manifest is taken whatever its platform.
   */
  async resolve(reference: Reference, platform: Platform, signal?: AbortSignal): Promise<ResolvedImage> {
    if (reference.registry !== this.registry) {
      throw new OcifsError("internal", `${formatReference(reference)}: asked of a client of ${this.registry}`);
    }
    const { repository } = reference;
    const what = `manifest ${formatReference(reference)}`;
    const fetch = (selector: string, name: string, wanted?: Digest) =>
      this.#fetchDocument(
        {
          check: (bytes) => wanted && checkDigest(bytes, wanted, name),
          path: `manifests/${selector}`,
          repository,
          accept: manifestAccept,
          maxBytes: limits.manifestBytes,
          what: name,
        },
        signal,
      );
    const root = await fetch(manifestSelectorOf(reference), what, reference.digest);
    const digest = reference.digest ?? digestOfBytes(root.bytes);
    const read = async ({ digest }: Descriptor, name: string) => (await fetch(digest, name, digest)).bytes;
    return await resolveImage({ bytes: root.bytes, digest, declaredType: root.contentType }, platform, what, read);
  }

  /**
   * Asks what a tag means now (HEAD, which registries do not count as a pull). Undefined when the answer has no usable Docker-Content-Digest.
   * Takes at most `limitMs` and tries again within it, but not where nobody listens: `isOutage` errors are for a caller who
   * can do without an answer.
   */
  async fetchTagDigest(reference: Reference, limitMs: number, userSignal?: AbortSignal): Promise<Digest | undefined> {
    const { repository } = reference;
    const what = `manifest ${formatReference(reference)}`;
    using linked = new LinkedSignal(userSignal, this.#lifetime.signal);
    const deadline = new AbortController();
    using both = new LinkedSignal(linked.signal, deadline.signal);
    const { signal } = both;
    const tooLate = new RegistryError("timeout", `${what}: no answer within ${limitMs} ms`, { retryable: true });
    const timer = setTimeout(() => deadline.abort(tooLate), limitMs);
    const request = {
      method: "HEAD",
      path: `manifests/${manifestSelectorOf(reference)}`,
      repository,
      headers: { accept: manifestAccept },
      what,
      signal,
      stats: this.#stats,
    } as const;
    const budget = new RetryBudget(
      { ...this.#retry, timeoutMs: Math.min(limitMs, this.#retry.timeoutMs) },
      this.#clock,
    );
    const attempt = async () => {
      try {
        return await this.#endpoints.ask(request, async (response) => {
          using _closed = response;
          return response.header("docker-content-digest");
        });
      } catch (error) {
        if (!isUnreachable(error)) throw error;
        throw new RegistryError("network", messageOf(error), { cause: error });
      }
    };
    try {
      const declared = await withRetry(budget, what, signal, () => this.#stats.add("retries"), attempt);
      return declared === undefined ? undefined : parseHeaderDigest(declared, what);
    } catch (error) {
      // Between two attempts the wait itself is cancelled.
      throw deadline.signal.aborted && !linked.signal.aborted ? tooLate : error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Fetches the config of a manifest; its digest, its size and its number of layers are checked. */
  async fetchConfig(repository: string, image: ResolvedImage, signal?: AbortSignal): Promise<ImageConfig> {
    const { config } = image.manifest;
    const what = `config ${this.registry}/${repository}@${config.digest}`;
    const check = (bytes: Uint8Array) => checkContent(bytes, config, what);
    const document = await this.#fetchDocument(
      { path: `blobs/${config.digest}`, repository, accept: "*/*", maxBytes: limits.configBytes, what, check },
      signal,
    );
    const parsed = parseImageConfig(document.bytes, what);
    checkConfigOfManifest(parsed, image.manifest, what);
    return parsed;
  }

  /** A fetcher of one blob's ranges. It ends with the client. Nothing is requested yet. */
  blobFetcher(
    repository: string,
    { digest, sizeBytes }: Pick<Descriptor, "digest" | "sizeBytes">,
    authorization?: BlobLocation["authorization"],
  ): BlobFetcher {
    const location = { registry: this.registry, repository, digest, sizeBytes, authorization };
    return new BlobFetcher(location, this.#blobs, new TransferStats(this.#stats));
  }

  stats(): TransferCounts {
    return this.#stats.counts();
  }

  /** Sends it, with the retries of every request. Throws RegistryErrors for all but 2xx answers. */
  async relay(request: RelayRequest, userSignal?: AbortSignal): Promise<RelayAnswer> {
    return await this.#retried(request, userSignal, async (response) => {
      const bytes =
        request.method === "HEAD" || request.maxBytes === 0
          ? new Uint8Array()
          : await response.readAll(request.maxBytes);
      return { status: response.status, bytes, header: (name) => response.header(name) };
    });
  }

  async #retried<T>(
    request: Omit<RegistryRequest, "signal" | "stats">,
    userSignal: AbortSignal | undefined,
    read: (response: HttpResponse) => Promise<T>,
  ): Promise<T> {
    const { what } = request;
    using linked = new LinkedSignal(userSignal, this.#lifetime.signal);
    const { signal } = linked;
    const stats = this.#stats;
    const budget = new RetryBudget(this.#retry, this.#clock);
    return await withRetry(
      budget,
      what,
      signal,
      () => stats.add("retries"),
      async () => {
        return await this.#endpoints.ask({ ...request, signal, stats }, async (response) => {
          using _closed = response;
          return await read(response);
        });
      },
    );
  }

  async #fetchDocument(request: DocumentRequest, userSignal: AbortSignal | undefined): Promise<Document> {
    const { what, path, repository, maxBytes, check } = request;
    return await this.#retried(
      { path, repository, headers: { accept: request.accept }, what },
      userSignal,
      async (response) => {
        if (response.status !== 200) {
          throw new OcifsError("mismatch", `${what}: ${response.url.host} answered HTTP ${response.status}; want 200`);
        }
        const encoding = response.header("content-encoding") ?? "identity";
        if (encoding !== "identity") {
          throw new OcifsError(
            "mismatch",
            `${what}: ${response.url.host} answered with a Content-Encoding nobody asked for`,
          );
        }
        const bytes = await response.readAll(maxBytes);
        const declared = response.header("docker-content-digest");
        if (declared !== undefined)
          checkDigest(bytes, parseHeaderDigest(declared, what), `${what}: Docker-Content-Digest`);
        check(bytes);
        return { bytes, contentType: response.header("content-type") };
      },
    );
  }

  /** Ends all transfers with `aborted` and closes all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new OcifsError("aborted", `${this.registry}: the registry client is closed`));
    for (const auth of this.#auths) auth[Symbol.dispose]();
    await Promise.all(this.#transports.map((transport) => transport[Symbol.asyncDispose]()));
  }
}

/** A registry of which nothing is said. */
function atItsName(registry: string, insecure: boolean): RegistryHost {
  return {
    url: new URL(`${insecure ? "http" : "https"}://${apiHostOf(registry)}/v2/`),
    pull: true,
    resolve: true,
    tls: { ca: [], client: [], skipVerify: false },
    headers: {},
  };
}

function parseHeaderDigest(text: string, what: string): Digest {
  try {
    return parseDigest(text.trim());
  } catch (cause) {
    throw new OcifsError("corrupt", `${what}: the Docker-Content-Digest header is not a digest`, { cause });
  }
}
