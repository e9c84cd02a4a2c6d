import {
  type handleUnaryCall,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { messageOf, OcifsError, type OcifsErrorCode } from "../base/errors.js";
import type { Log } from "../base/log.js";
import {
  type CommitRequest,
  type KeyRequest,
  type ListRequest,
  type NewSnapshotRequest,
  type SnapshotInfo,
  snapshotKinds,
  type Timestamp,
  type UpdateRequest,
} from "./api.js";
import { parseFilters } from "./filter.js";
import { SnapshotExistsError } from "./snapshot-error.js";
import type { SnapshotRecord } from "./snapshot-record.js";
import type { Snapshotter } from "./snapshotter.js";

/** Snapshots in one message of a list: with the labels of a pull, 16 KiB each, far below gRPC's 4 MiB. */
const INFOS_A_MESSAGE = 64;

/** The methods of the service, by name; what is thrown becomes gRPC's status, and is logged unless it is an answer. */
export function snapshotsService(snapshotter: Snapshotter, log: Log): UntypedServiceImplementation {
  const unary = <Request>(
    name: string,
    answer: (request: Request) => Promise<object>,
  ): handleUnaryCall<Request, object> => {
    return (call: ServerUnaryCall<Request, object>, reply: sendUnaryData<object>) => {
      answer(call.request).then(
        (response) => reply(null, response),
        (error: unknown) => reply(toServiceError(error, name, log)),
      );
    };
  };
  return {
    Prepare: unary("Prepare", async ({ key, parent, labels }: NewSnapshotRequest) => ({
      mounts: await snapshotter.prepare(key, parent, labels),
    })),
    View: unary("View", async ({ key, parent, labels }: NewSnapshotRequest) => ({
      mounts: await snapshotter.view(key, parent, labels),
    })),
    Mounts: unary("Mounts", async ({ key }: KeyRequest) => ({ mounts: await snapshotter.mounts(key) })),
    Commit: unary("Commit", async ({ name, key, labels, parent }: CommitRequest) => {
      if (parent !== "" && parent !== snapshotter.stat(key).parent) {
        throw new OcifsError("unsupported", `snapshot ${key}: it cannot be committed on another parent, ${parent}`);
      }
      await snapshotter.commit(name, key, labels);
      return {};
    }),
    Remove: unary("Remove", async ({ key }: KeyRequest) => {
      await snapshotter.remove(key);
      return {};
    }),
    Stat: unary("Stat", async ({ key }: KeyRequest) => ({ info: toInfo(snapshotter.stat(key)) })),
    Update: unary("Update", async ({ info, update_mask }: UpdateRequest) => {
      if (info === null) throw new OcifsError("usage", "update: no snapshot is named");
      return { info: toInfo(await snapshotter.update(info.name, info.labels, update_mask?.paths ?? [])) };
    }),
    Usage: unary("Usage", async ({ key }: KeyRequest) => {
      const { bytes, inodes } = await snapshotter.usage(key);
      return { size: bytes, inodes };
    }),
    Cleanup: unary("Cleanup", async () => {
      snapshotter.collect();
      return {};
    }),
    List: (call: ServerWritableStream<ListRequest, object>) => {
      try {
        const matches = parseFilters(call.request.filters);
        const found = snapshotter.list().filter(matches);
        for (let at = 0; at < found.length; at += INFOS_A_MESSAGE) {
          call.write({ info: found.slice(at, at + INFOS_A_MESSAGE).map(toInfo) });
        }
        call.end();
      } catch (error) {
        call.emit("error", toServiceError(error, "List", log));
      }
    },
  };
}

function toInfo({ name, parent, kind, labels, createdMs, updatedMs }: SnapshotRecord): SnapshotInfo {
  return {
    name,
    parent,
    kind: snapshotKinds[kind],
    created_at: toTimestamp(createdMs),
    updated_at: toTimestamp(updatedMs),
    labels,
  };
}

function toTimestamp(ms: number): Timestamp {
  return { seconds: Math.floor(ms / 1000), nanos: (ms % 1000) * 1_000_000 };
}

/** As containerd's errdefs reads them back. */
const statusOf: Partial<Record<OcifsErrorCode, status>> = {
  usage: status.INVALID_ARGUMENT,
  "not-found": status.NOT_FOUND,
  busy: status.FAILED_PRECONDITION,
  unsupported: status.UNIMPLEMENTED,
  limit: status.RESOURCE_EXHAUSTED,
  "no-space": status.RESOURCE_EXHAUSTED,
  network: status.UNAVAILABLE,
  timeout: status.UNAVAILABLE,
  aborted: status.UNAVAILABLE,
};

/** What containerd asks for in the ordinary course of things. */
const answers: ReadonlySet<status> = new Set([status.ALREADY_EXISTS, status.NOT_FOUND, status.FAILED_PRECONDITION]);

function toServiceError(error: unknown, operation: string, log: Log): Partial<ServiceError> {
  const known = error instanceof OcifsError ? statusOf[error.code] : undefined;
  const code = error instanceof SnapshotExistsError ? status.ALREADY_EXISTS : (known ?? status.INTERNAL);
  if (!answers.has(code)) log.error(`${operation} failed`, { reason: messageOf(error), status: status[code] });
  return { code, details: messageOf(error) };
}
