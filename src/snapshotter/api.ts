import type { ServiceDefinition } from "@grpc/grpc-js";
import { loadService, message, method } from "./protobuf.js";

const mountsResponse = message({ mounts: ["repeated containerd.types.Mount", 1] });
const keyRequest = message({ snapshotter: ["string", 1], key: ["string", 2] });
const newSnapshotRequest = message({
  snapshotter: ["string", 1],
  key: ["string", 2],
  parent: ["string", 3],
  labels: ["labels", 4],
});
const infoResponse = message({ info: ["Info", 1] });

/** containerd.services.snapshots.v1 as of its API 1.6, which newer ones are compatible with. */
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
      ...method("List", "ListSnapshotsRequest", "ListSnapshotsResponse", { responseStream: true }),
      ...method("Usage", "UsageRequest", "UsageResponse"),
      ...method("Cleanup", "CleanupRequest", "google.protobuf.Empty"),
    },
  },
};

/** `containerd.services.snapshots.v1.Snapshots`, which containerd serves too. */
export function loadSnapshotsService(): ServiceDefinition {
  return loadService("containerd.services.snapshots.v1", snapshots, "Snapshots");
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
