import {
  type Client,
  type ClientDuplexStream,
  credentials,
  Metadata,
  makeClientConstructor,
  type ServiceDefinition,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { isOcifsError, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { Descriptor } from "../oci/descriptor.js";
import { loadSnapshotsService } from "./api.js";
import { loadService, message, method } from "./protobuf.js";
import { SnapshotExistsError } from "./snapshot-error.js";

/** Of containerd's other services what makes an image known to it; numbers as in its API 1.6. */
const content = {
  WriteAction: { values: { STAT: 0, WRITE: 1, COMMIT: 2 } },
  WriteContentRequest: message({
    action: ["WriteAction", 1],
    ref: ["string", 2],
    total: ["int64", 3],
    expected: ["string", 4],
    offset: ["int64", 5],
    data: ["bytes", 6],
    labels: ["labels", 7],
  }),
  WriteContentResponse: message({
    action: ["WriteAction", 1],
    offset: ["int64", 4],
    total: ["int64", 5],
    digest: ["string", 6],
  }),
  Info: message({ digest: ["string", 1], size: ["int64", 2], labels: ["labels", 5] }),
  UpdateRequest: message({ info: ["Info", 1], update_mask: ["google.protobuf.FieldMask", 2] }),
  UpdateResponse: message({ info: ["Info", 1] }),
  Content: {
    methods: {
      ...method("Write", "WriteContentRequest", "WriteContentResponse", { requestStream: true, responseStream: true }),
      ...method("Update", "UpdateRequest", "UpdateResponse"),
    },
  },
};

const images = {
  Image: message({ name: ["string", 1], labels: ["labels", 2], target: ["containerd.types.Descriptor", 3] }),
  CreateImageRequest: message({ image: ["Image", 1] }),
  CreateImageResponse: message({ image: ["Image", 1] }),
  UpdateImageRequest: message({ image: ["Image", 1], update_mask: ["google.protobuf.FieldMask", 2] }),
  UpdateImageResponse: message({ image: ["Image", 1] }),
  Images: {
    methods: {
      ...method("Create", "CreateImageRequest", "CreateImageResponse"),
      ...method("Update", "UpdateImageRequest", "UpdateImageResponse"),
    },
  },
};

const leases = {
  Lease: message({ id: ["string", 1], labels: ["labels", 3] }),
  CreateRequest: message({ id: ["string", 1], labels: ["labels", 3] }),
  CreateResponse: message({ lease: ["Lease", 1] }),
  DeleteRequest: message({ id: ["string", 1], sync: ["bool", 2] }),
  Leases: {
    methods: {
      ...method("Create", "CreateRequest", "CreateResponse"),
      ...method("Delete", "DeleteRequest", "google.protobuf.Empty"),
    },
  },
};

type Labels = Readonly<Record<string, string>>;
type Unary = (request: object, metadata: Metadata, done: (error: ServiceError | null) => void) => void;

/** Of containerd as much as a pull needs, in one namespace. Answers that containerd's errdefs names become OcifsErrors. */
export class ContainerdClient implements Disposable {
  readonly #address: string;
  readonly #metadata = new Metadata();
  readonly #clients: Client[] = [];
  readonly #content: Client;
  readonly #images: Client;
  readonly #leases: Client;
  readonly #snapshots: Client;

  constructor(address: string, namespace: string) {
    this.#address = address;
    this.#metadata.set("containerd-namespace", namespace);
    this.#content = this.#connect(loadService("containerd.services.content.v1", content, "Content"));
    this.#images = this.#connect(loadService("containerd.services.images.v1", images, "Images"));
    this.#leases = this.#connect(loadService("containerd.services.leases.v1", leases, "Leases"));
    this.#snapshots = this.#connect(loadSnapshotsService());
  }

  [Symbol.dispose](): void {
    for (const client of this.#clients) client.close();
  }

  /** Keeps what the following calls make from garbage collection, until the lease is deleted or `expires`. */
  async createLease(id: string, expires: Date): Promise<void> {
    const labels = { "containerd.io/gc.expire": expires.toISOString() };
    await this.#call(this.#leases, "Create", { id, labels });
    this.#metadata.set("containerd-lease", id);
  }

  async deleteLease(id: string): Promise<void> {
    this.#metadata.remove("containerd-lease");
    await this.#call(this.#leases, "Delete", { id });
  }

  /** Puts a document into the content store, or only labels it when it is there. */
  async writeContent(digest: string, bytes: Uint8Array, labels: Labels): Promise<void> {
    try {
      await this.#write({
        action: 2,
        ref: `ocifs-${digest}`,
        total: bytes.length,
        expected: digest,
        offset: 0,
        data: bytes,
        labels,
      });
    } catch (error) {
      if (!(error instanceof SnapshotExistsError)) throw error;
      const paths = Object.keys(labels).map((name) => `labels.${name}`);
      await this.#call(this.#content, "Update", { info: { digest, labels }, update_mask: { paths } });
    }
  }

  /** Gives an image this name, which another one may have had. */
  async putImage(name: string, target: Pick<Descriptor, "mediaType" | "digest" | "sizeBytes">): Promise<void> {
    const { mediaType, digest, sizeBytes } = target;
    const image = { name, labels: {}, target: { media_type: mediaType, digest, size: sizeBytes } };
    try {
      await this.#call(this.#images, "Create", { image });
    } catch (error) {
      if (!(error instanceof SnapshotExistsError)) throw error;
      await this.#call(this.#images, "Update", { image, update_mask: { paths: ["target"] } });
    }
  }

  async hasSnapshot(snapshotter: string, key: string): Promise<boolean> {
    try {
      await this.#call(this.#snapshots, "Stat", { snapshotter, key });
      return true;
    } catch (error) {
      if (isOcifsError(error, "not-found")) return false;
      throw error;
    }
  }

  /** True when the snapshotter had the layer already, or took it upon itself; false when it was given a place to unpack it. */
  async prepareSnapshot(snapshotter: string, key: string, parent: string, labels: Labels): Promise<boolean> {
    try {
      await this.#call(this.#snapshots, "Prepare", { snapshotter, key, parent, labels });
      return false;
    } catch (error) {
      if (error instanceof SnapshotExistsError) return true;
      throw error;
    }
  }

  async removeSnapshot(snapshotter: string, key: string): Promise<void> {
    await this.#call(this.#snapshots, "Remove", { snapshotter, key });
  }

  #connect(service: ServiceDefinition): Client {
    const Service = makeClientConstructor(service, "containerd");
    const client = new Service(`unix:${this.#address}`, credentials.createInsecure(), {
      "grpc.max_receive_message_length": limits.snapshotRequestBytes,
    });
    this.#clients.push(client);
    return client;
  }

  #call(client: Client, name: string, request: object): Promise<void> {
    return new Promise((resolve, reject) => {
      const unary = (client as unknown as Record<string, Unary>)[name];
      unary?.call(client, request, this.#metadata, (error) => (error ? reject(this.#toError(error)) : resolve()));
    });
  }

  #write(request: object): Promise<void> {
    return new Promise((resolve, reject) => {
      const open = (
        this.#content as unknown as Record<string, (metadata: Metadata) => ClientDuplexStream<object, object>>
      ).Write;
      const stream = open?.call(this.#content, this.#metadata);
      stream?.on("error", (error) => reject(this.#toError(error as ServiceError)));
      stream?.on("data", () => undefined);
      stream?.on("end", () => resolve());
      stream?.write(request);
      stream?.end();
    });
  }

  #toError(error: ServiceError): OcifsError {
    const message = `containerd at ${this.#address}: ${error.details || error.message}`;
    if (error.code === status.ALREADY_EXISTS) return new SnapshotExistsError(message);
    if (error.code === status.NOT_FOUND) return new OcifsError("not-found", message, { cause: error });
    const passes = error.code === status.UNAVAILABLE || error.code === status.DEADLINE_EXCEEDED;
    return new OcifsError(passes ? "network" : "io", message, { cause: error });
  }
}
