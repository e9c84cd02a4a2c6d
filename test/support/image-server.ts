import { type FaultyServer, type Handler, serveBytes, startFaultyServer } from "./faulty-server.js";
import { serveDocuments } from "./image-documents.js";
import type { LayerFixture } from "./layer-fixture.js";

/** A registry that serves one image of one gzip layer, and whose answers for the layer can be replaced. */
export class ImageServer implements AsyncDisposable {
  readonly server: FaultyServer;
  readonly #fixture: LayerFixture;
  #waiting: { condition: () => boolean; resolve: () => void }[] = [];
  #blobRequests = 0;
  /** Answers requests for the layer; undefined answers them well. */
  fault: Handler | undefined;

  private constructor(server: FaultyServer, fixture: LayerFixture) {
    this.server = server;
    this.#fixture = fixture;
  }

  static async start(fixture: LayerFixture, tls?: Parameters<typeof startFaultyServer>[1]): Promise<ImageServer> {
    const server = await startFaultyServer(() => undefined, tls);
    const self = new ImageServer(server, fixture);
    server.handle(self.#handle);
    return self;
  }

  get reference(): string {
    return `${this.server.host}/team/app:v1`;
  }

  /** Requests for the layer so far. */
  get blobRequests(): number {
    return this.#blobRequests;
  }

  /** Resolves once `count` more requests for the layer have come. */
  moreBlobRequests(count: number): Promise<void> {
    const wanted = this.#blobRequests + count;
    return this.moreRequests(() => this.#blobRequests >= wanted);
  }

  /** Resolves at the first request after which the condition holds. */
  moreRequests(condition: () => boolean): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ condition, resolve }));
  }

  /** The well-behaved answer. */
  readonly serveLayer: Handler = (request, response) => serveBytes(this.#fixture.gz, request, response);

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop();
  }

  /** Answers everything, in place of the script: for tests that put something in front. */
  readonly handle: Handler = (request, response) => this.#handle(request, response);

  readonly #handle: Handler = (request, response) => {
    const { gz, index } = this.#fixture;
    const { manifest } = index;
    const layers = [{ digest: manifest.blob.digest, sizeBytes: gz.length, diffId: manifest.tar.digest }];
    if (!serveDocuments(layers, request, response)) {
      this.#blobRequests++;
      (this.fault ?? this.serveLayer)(request, response);
    }
    const ready = this.#waiting.filter(({ condition }) => condition());
    this.#waiting = this.#waiting.filter((waiter) => !ready.includes(waiter));
    for (const { resolve } of ready) resolve();
  };
}
