import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { request } from "undici";
import type { Digest } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";

/** Content of a blob to push: in memory, or a file that is streamed. */
export type PushContent = { readonly bytes: Uint8Array } | { readonly path: string };

export type PushLayer = PushContent & {
  readonly mediaType: string;
  /** Digest of the uncompressed tar. Without it the layer's own digest stands in, which is right for plain tars only. */
  readonly diffId?: Digest;
};

export interface PushedDescriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
}

export interface PushAuth {
  readonly user: string;
  readonly password: string;
}

export interface PushOptions {
  readonly layers: readonly PushLayer[];
  readonly repository: string;
  readonly tag: string;
  readonly auth?: PushAuth;
  /** Fields of the image config over the defaults (linux/amd64, diffIDs of the layers). */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Fields of the manifest over the defaults; undefined ones are left out. */
  readonly manifest?: Readonly<Record<string, unknown>>;
}

export interface PushedImage {
  readonly manifest: PushedDescriptor;
  readonly manifestBytes: Buffer;
  readonly config: PushedDescriptor;
  readonly layers: readonly PushedDescriptor[];
}

/** Pushes an image to the registry at `host` through the distribution API over http. */
export async function pushImage(host: string, options: PushOptions): Promise<PushedImage> {
  const target = new PushTarget(host, options.repository, options.auth);
  const layers: PushedDescriptor[] = [];
  for (const layer of options.layers) layers.push(await target.pushBlob(layer, layer.mediaType));
  const diffIds = options.layers.map((layer, index) => layer.diffId ?? layers[index]?.digest);
  const config = {
    architecture: "amd64",
    os: "linux",
    rootfs: { type: "layers", diff_ids: diffIds },
    ...options.config,
  };
  const configDescriptor = await target.pushBlob({ bytes: toJson(config) }, mediaTypes.ociConfig);
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: configDescriptor,
    layers,
    ...options.manifest,
  };
  const manifestBytes = toJson(manifest);
  const type = manifest.mediaType ?? mediaTypes.ociManifest;
  const descriptor = await target.pushManifest(manifestBytes, type, options.tag);
  return { manifest: descriptor, manifestBytes, config: configDescriptor, layers };
}

/** Pushes a document such as an image index under a tag; what it lists must be in the repository already. */
export async function pushManifest(
  host: string,
  options: { repository: string; tag: string; mediaType: string; document: unknown; auth?: PushAuth },
): Promise<PushedDescriptor> {
  const target = new PushTarget(host, options.repository, options.auth);
  return await target.pushManifest(toJson(options.document), options.mediaType, options.tag);
}

class PushTarget {
  readonly #base: string;
  readonly #auth: PushAuth | undefined;
  #authorization: string | undefined;

  constructor(host: string, repository: string, auth?: PushAuth) {
    this.#base = `http://${host}/v2/${repository}`;
    this.#auth = auth;
  }

  async pushBlob(content: PushContent, mediaType: string): Promise<PushedDescriptor> {
    const { digest, size } = await measure(content);
    const start = await this.#send("POST", `${this.#base}/blobs/uploads/`, {}, undefined, [202]);
    const location = new URL(String(start.headers.location), this.#base);
    location.searchParams.set("digest", digest);
    const body = "path" in content ? createReadStream(content.path) : Readable.from([content.bytes]);
    const headers = { "content-type": "application/octet-stream", "content-length": String(size) };
    await this.#send("PUT", location.href, headers, size === 0 ? undefined : body, [201]);
    return { mediaType, digest, size };
  }

  async pushManifest(bytes: Uint8Array, mediaType: string, tag: string): Promise<PushedDescriptor> {
    await this.#send("PUT", `${this.#base}/manifests/${tag}`, { "content-type": mediaType }, Buffer.from(bytes), [201]);
    return { mediaType, digest: digestOf(bytes), size: bytes.length };
  }

  /** A 401 comes before the body is read, to the POST that starts an upload or to an empty login request. */
  async #send(
    method: "POST" | "PUT",
    url: string,
    headers: Record<string, string>,
    body: Readable | Buffer | undefined,
    accepted: readonly number[],
  ) {
    if (this.#auth !== undefined && this.#authorization === undefined) await this.#login(this.#auth);
    const authorization = this.#authorization === undefined ? {} : { authorization: this.#authorization };
    const response = await request(url, {
      method,
      headers: { ...headers, ...authorization },
      ...(body === undefined ? {} : { body }),
    });
    const text = await response.body.text();
    if (!accepted.includes(response.statusCode)) throw new Error(`${method} ${url}: ${response.statusCode} ${text}`);
    return response;
  }

  async #login(auth: PushAuth): Promise<void> {
    const basic = `Basic ${Buffer.from(`${auth.user}:${auth.password}`).toString("base64")}`;
    const response = await request(`${this.#base}/tags/list`, { method: "GET" });
    await response.body.dump();
    const challenge = String(response.headers["www-authenticate"] ?? "");
    const realm = /realm="([^"]+)"/.exec(challenge)?.[1];
    if (!/^bearer/i.test(challenge) || realm === undefined) {
      this.#authorization = basic;
      return;
    }
    const repository = this.#base.slice(this.#base.indexOf("/v2/") + 4);
    const service = /service="([^"]+)"/.exec(challenge)?.[1] ?? "";
    const query = new URLSearchParams({ service, scope: `repository:${repository}:pull,push` });
    const answer = await request(`${realm}?${query}`, { headers: { authorization: basic } });
    const { token } = (await answer.body.json()) as { token: string };
    this.#authorization = `Bearer ${token}`;
  }
}

async function measure(content: PushContent): Promise<{ digest: Digest; size: number }> {
  if ("bytes" in content) return { digest: digestOf(content.bytes), size: content.bytes.length };
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(content.path)) hash.update(chunk as Buffer);
  return { digest: `sha256:${hash.digest("hex")}`, size: (await stat(content.path)).size };
}

function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

function toJson(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
