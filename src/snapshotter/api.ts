import type { ServiceDefinition } from "@grpc/grpc-js";
import { fromJSON } from "@grpc/proto-loader";
import { OcifsError } from "../base/errors.js";

/**
 * The wire format of containerd.services.snapshots.v1 (its API 1.6, which newer ones are compatible with), as protobufjs
 * takes it: fields by name with their type and number.
 */
const message = (fields: Readonly<Record<string, readonly [type: string, id: number]>>) => ({
  fields: Object.fromEntries(
    Object.entries(fields).map(([name, [type, id]]) => {
      if (type.startsWith("repeated ")) return [name, { rule: "repeated", type: type.slice("repeated ".length), id }];
      return [name, type === "labels" ? { keyType: "string", type: "string", id } : { type, id }];
    }),
  ),
});

const method = (name: string, requestType: string, responseType: string, responseStream = false) => ({
  [name]: { requestType, responseType, ...(responseStream ? { responseStream } : {}) },
});

const types = {
  Mount: message({
    type: ["string", 1],
    source: ["string", 2],
    target: ["string", 3],
    options: ["repeated string", 4],
  }),
};

const mountsResponse = message({ mounts: ["repeated containerd.types.Mount", 1] });
const keyRequest = message({ snapshotter: ["string", 1], key: ["string", 2] });
const newSnapshotRequest = message({
  snapshotter: ["string", 1],
  key: ["string", 2],
  parent: ["string", 3],
  labels: ["labels", 4],
});
const infoResponse = message({ info: ["Info", 1] });

const snapshots = {
  Kind: { values: { UNKNOWN: 0, VIEW: 1, ACTIVE: 2, COMMITTED: 3 } },
  Info: message({
    name: ["string", 1],
    parent: ["string", 2],
    kind: ["Kind", 3],
    created_at: ["google.protobuf.Timestamp", 4],
    updated_at: ["google.protobuf.Timestamp", 5],
    labels: ["labels", 6],
  }),
  PrepareSnapshotRequest: newSnapshotRequest,
  PrepareSnapshotResponse: mountsResponse,
  ViewSnapshotRequest: newSnapshotRequest,
  ViewSnapshotResponse: mountsResponse,
  MountsRequest: keyRequest,
  MountsResponse: mountsResponse,
  CommitSnapshotRequest: message({
    snapshotter: ["string", 1],
    name: ["string", 2],
    key: ["string", 3],
    labels: ["labels", 4],
    parent: ["string", 5],
  }),
  RemoveSnapshotRequest: keyRequest,
  StatSnapshotRequest: keyRequest,
  StatSnapshotResponse: infoResponse,
  UpdateSnapshotRequest: message({
    snapshotter: ["string", 1],
    info: ["Info", 2],
    update_mask: ["google.protobuf.FieldMask", 3],
  }),
  UpdateSnapshotResponse: infoResponse,
  ListSnapshotsRequest: message({ snapshotter: ["string", 1], filters: ["repeated string", 2] }),
  ListSnapshotsResponse: message({ info: ["repeated Info", 1] }),
  UsageRequest: keyRequest,
  UsageResponse: message({ size: ["int64", 1], inodes: ["int64", 2] }),
  CleanupRequest: message({ snapshotter: ["string", 1] }),
  Snapshots: {
    methods: {
      ...method("Prepare", "PrepareSnapshotRequest", "PrepareSnapshotResponse"),
      ...method("View", "ViewSnapshotRequest", "ViewSnapshotResponse"),
      ...method("Mounts", "MountsRequest", "MountsResponse"),
      ...method("Commit", "CommitSnapshotRequest", "google.protobuf.Empty"),
      ...method("Remove", "RemoveSnapshotRequest", "google.protobuf.Empty"),
      ...method("Stat", "StatSnapshotRequest", "StatSnapshotResponse"),
      ...method("Update", "UpdateSnapshotRequest", "UpdateSnapshotResponse"),
      ...method("List", "ListSnapshotsRequest", "ListSnapshotsResponse", true),
      ...method("Usage", "UsageRequest", "UsageResponse"),
      ...method("Cleanup", "CleanupRequest", "google.protobuf.Empty"),
    },
  },
};

const wellKnown = {
  Timestamp: message({ seconds: ["int64", 1], nanos: ["int32", 2] }),
  FieldMask: message({ paths: ["repeated string", 1] }),
  Empty: message({}),
};

const nested = (path: string, content: object): object =>
  path.split(".").reduceRight((inner, name) => ({ nested: { [name]: inner } }), { nested: content } as object);

interface Namespace {
  nested: Record<string, Namespace>;
}

function merge(into: Namespace, other: Namespace): void {
  for (const [name, inner] of Object.entries(other.nested)) {
    const there = into.nested[name];
    if (there === undefined) into.nested[name] = inner;
    else merge(there, inner);
  }
}

/** `containerd.services.snapshots.v1.Snapshots`; 64-bit numbers are JavaScript's, enums are numbers. */
export function loadSnapshotsService(): ServiceDefinition {
  const root = { nested: {} } as Namespace;
  merge(root, nested("google.protobuf", wellKnown) as Namespace);
  merge(root, nested("containerd.types", types) as Namespace);
  merge(root, nested("containerd.services.snapshots.v1", snapshots) as Namespace);
  const loaded = fromJSON(root as never, {
    keepCase: true,
    longs: Number,
    enums: Number,
    defaults: true,
    objects: true,
  });
  const service = loaded["containerd.services.snapshots.v1.Snapshots"];
  if (service === undefined || "format" in service)
    throw new OcifsError("internal", "snapshots API: it has no service");
  return service as ServiceDefinition;
}

export const snapshotKinds = { view: 1, active: 2, committed: 3 } as const;

export interface Timestamp {
  readonly seconds: number;
  readonly nanos: number;
}

export interface SnapshotInfo {
  readonly name: string;
  readonly parent: string;
  readonly kind: number;
  readonly created_at: Timestamp | null;
  readonly updated_at: Timestamp | null;
  readonly labels: Readonly<Record<string, string>>;
}

export interface KeyRequest {
  readonly key: string;
}

export interface NewSnapshotRequest extends KeyRequest {
  readonly parent: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface CommitRequest extends KeyRequest {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Of containerd 2.2 and later, where a snapshotter can put a snapshot on another parent at commit. */
  readonly parent: string;
}

export interface UpdateRequest {
  readonly info: SnapshotInfo | null;
  readonly update_mask: { readonly paths: readonly string[] } | null;
}

export interface ListRequest {
  readonly filters: readonly string[];
}
