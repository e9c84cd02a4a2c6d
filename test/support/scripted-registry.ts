import { randomBytes } from "node:crypto";
import type { ServerResponse } from "node:http";
import { openRegistryImage, type RegistryImage } from "../../src/blob/registry-image.js";
import type { RemoteBlobSource } from "../../src/blob/remote.js";
import type { Descriptor } from "../../src/oci/descriptor.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parseReference } from "../../src/oci/reference.js";
import type { RegistryClientOptions } from "../../src/registry/client.js";
import {
  type FaultyServer,
  type Handler,
  type ReceivedRequest,
  serveBytes,
  startFaultyServer,
} from "./faulty-server.js";

export const scriptedRepository = "team/app";

/** A registry of one image whose server can be told to misbehave. */
export class ScriptedRegistry implements AsyncDisposable {
  readonly layer = randomBytes(200_000);
  readonly config = toJson({
    os: "linux",
    architecture: "amd64",
    rootfs: { type: "layers", diff_ids: [digestOfBytes(this.layer)] },
  });
  readonly manifest = toJson({
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: { mediaType: mediaTypes.ociConfig, digest: digestOfBytes(this.config), size: this.config.length },
    layers: [{ mediaType: mediaTypes.ociLayerTar, digest: digestOfBytes(this.layer), size: this.layer.length }],
  });
  readonly descriptor: Descriptor = {
    mediaType: mediaTypes.ociLayerTar,
    digest: digestOfBytes(this.layer),
    sizeBytes: this.layer.length,
    annotations: new Map(),
  };
  readonly server: FaultyServer;
  readonly #images: RegistryImage[] = [];

  private constructor(server: FaultyServer) {
    this.server = server;
    server.handle(this.serve);
  }

  static async start(tls?: { readonly key: string; readonly cert: string }): Promise<ScriptedRegistry> {
    return new ScriptedRegistry(await startFaultyServer(() => undefined, tls));
  }

  get host(): string {
    return this.server.host;
  }

  /** The part of the requests that tests look at. */
  get urls(): readonly string[] {
    return this.server.requests.map(({ url }) => url.replace(`/v2/${scriptedRepository}/`, ""));
  }

  /** Ranges asked for, in order; undefined for a request without. */
  get ranges(): readonly (string | undefined)[] {
    return this.server.requests.map(({ headers }) => headers.range);
  }

  /** The well-behaved answer. */
  readonly serve = (request: ReceivedRequest, response: ServerResponse): void => {
    const name = request.url.replace(`/v2/${scriptedRepository}/`, "");
    if (name.startsWith("manifests/")) {
      response.writeHead(200, { "content-type": mediaTypes.ociManifest, "content-length": this.manifest.length });
      response.end(this.manifest);
    } else serveBytes(name.endsWith(digestOfBytes(this.config)) ? this.config : this.layer, request, response);
  };

  /** Answers the first request with each script in turn, all later ones well. */
  script(...handlers: readonly Handler[]): void {
    const rest = [...handlers];
    this.server.handle((request, response) => (rest.shift() ?? this.serve)(request, response));
  }

  /** An image of this registry; closed with it. */
  image(options: RegistryClientOptions = {}, selector = ":v1"): RegistryImage {
    const reference = parseReference(`${this.host}/${scriptedRepository}${selector}`);
    const image = openRegistryImage(reference, { insecure: true, retryBaseDelayMs: 1, ...options });
    this.#images.push(image);
    return image;
  }

  async blob(options: RegistryClientOptions = {}): Promise<RemoteBlobSource> {
    return await this.image(options).openBlob(this.descriptor);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const image of this.#images) await image[Symbol.asyncDispose]();
    await this.server.stop();
  }
}

export function toJson(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
