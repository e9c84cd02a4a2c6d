import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import {
  type FaultyServer,
  type Handler,
  type ReceivedRequest,
  serveBytes,
  startFaultyServer,
} from "./faulty-server.js";
import { serveDocuments } from "./image-documents.js";

export interface ServedLayer {
  readonly gz: Buffer;
  readonly diffId: Digest;
  /** Default: the right one. */
  readonly digest?: Digest;
}

/** A registry that serves one image of several gzip layers, notes what is asked of each, and can be told to misbehave. */
export class LayersServer implements AsyncDisposable {
  readonly server: FaultyServer;
  readonly #layers: readonly (ServedLayer & { readonly digest: Digest })[];
  readonly #requests = new Map<Digest, ReceivedRequest[]>();
  #waiting: (() => void)[] = [];
  /** Answers requests for a layer's blob; undefined answers them well. */
  fault: ((layer: number) => Handler | undefined) | undefined;
  rangesSupported = true;

  private constructor(server: FaultyServer, layers: readonly ServedLayer[]) {
    this.server = server;
    this.#layers = layers.map((layer) => ({ ...layer, digest: layer.digest ?? digestOfBytes(layer.gz) }));
    server.handle(this.#handle);
  }

  static async start(layers: readonly ServedLayer[]): Promise<LayersServer> {
    return new LayersServer(await startFaultyServer(() => undefined), layers);
  }

  get reference(): string {
    return `${this.server.host}/team/layers:v1`;
  }

  digestOf(layer: number): Digest {
    return this.#layers[layer]?.digest ?? "sha256:";
  }

  /** Requests for a layer's blob so far. */
  requests(layer: number): readonly ReceivedRequest[] {
    return this.#requests.get(this.digestOf(layer)) ?? [];
  }

  /** Bytes of a layer that requests from number `from` on have asked for. */
  askedBytes(layer: number, from = 0): number {
    const { length } = this.#layers[layer]?.gz ?? Buffer.alloc(0);
    return this.requests(layer)
      .slice(from)
      .map(({ headers }) => /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? ""))
      .reduce((sum, range) => sum + (range ? Math.min(length, Number(range[2]) + 1) - Number(range[1]) : length), 0);
  }

  /** Resolves at the first request after which the condition holds, at once if it does. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** The well-behaved answer. */
  serve(layer: number): Handler {
    return (request, response) => {
      const { gz } = this.#layers[layer] ?? { gz: Buffer.alloc(0) };
      serveBytes(gz, this.rangesSupported ? request : { ...request, headers: {} }, response);
    };
  }

  /** Gives the first bytes of the answer, and never the rest. */
  serveStart(layer: number, bytes: number): Handler {
    return (request, response) => {
      const end = response.end.bind(response);
      response.end = ((body: Buffer) => {
        response.write(body.subarray(0, bytes));
        return response;
      }) as typeof end;
      this.serve(layer)(request, response);
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop();
  }

  readonly #handle: Handler = (request, response) => {
    const described = this.#layers.map(({ digest, gz, diffId }) => ({ digest, sizeBytes: gz.length, diffId }));
    if (!serveDocuments(described, request, response)) {
      const layer = this.#layers.findIndex(({ digest }) => request.url.endsWith(digest));
      const { digest } = this.#layers[layer] ?? { digest: "sha256:" as const };
      this.#requests.set(digest, [...(this.#requests.get(digest) ?? []), request]);
      (this.fault?.(layer) ?? this.serve(layer))(request, response);
    }
    for (const look of this.#waiting.splice(0)) look();
  };
}
