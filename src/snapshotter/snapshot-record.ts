import { OcifsError } from "../base/errors.js";
import { type Digest, parseDigest } from "../oci/digest.js";
import { asObject, asString, parseJsonObject } from "../oci/json.js";

export type SnapshotKind = "view" | "active" | "committed";

/** The lowest `layer + 1` layers of an image of `layers`, which one ocifs mount shows. */
export interface LazyLayer {
  /** `registry/repository@digest` of the manifest. */
  readonly source: string;
  readonly manifest: Digest;
  /** From 0, the base layer. */
  readonly layer: number;
  readonly layers: number;
  /** The layer's blob. */
  readonly blob: Digest;
}

/** What a snapshot takes up. */
export interface SnapshotUsage {
  readonly bytes: number;
  readonly inodes: number;
}

/** A snapshot as it is kept; docs/FORMATS.md. */
export interface SnapshotRecord {
  /** Names its file and its directory; a decimal number. */
  readonly id: string;
  /** containerd's key, or the name that it was committed under. */
  readonly name: string;
  /** Name of the parent, empty for none. */
  readonly parent: string;
  readonly kind: SnapshotKind;
  readonly labels: Readonly<Record<string, string>>;
  /** Milliseconds since the epoch. */
  readonly createdMs: number;
  readonly updatedMs: number;
  /** Of a committed snapshot with files of its own. */
  readonly usage?: SnapshotUsage;
  /** Of a committed snapshot that an ocifs mount shows; it has no files of its own. */
  readonly lazy?: LazyLayer;
}

const FORMAT_VERSION = 1;

export function formatRecord(record: SnapshotRecord): string {
  return `${JSON.stringify({ version: FORMAT_VERSION, ...record })}\n`;
}

/** Throws `corrupt`, or `unsupported` for a version of the future. */
export function parseRecord(bytes: Uint8Array, what: string): SnapshotRecord {
  const object = parseJsonObject(bytes, what);
  if (object.version !== FORMAT_VERSION) {
    throw new OcifsError("unsupported", `${what}: format version ${object.version}, want ${FORMAT_VERSION}`);
  }
  const id = asString(object.id, `${what}: id`);
  if (!/^[1-9]\d{0,14}$/.test(id)) throw new OcifsError("corrupt", `${what}: id "${id.slice(0, 40)}"`);
  const kind = asString(object.kind, `${what}: kind`);
  if (kind !== "view" && kind !== "active" && kind !== "committed") {
    throw new OcifsError("corrupt", `${what}: kind "${kind.slice(0, 40)}"`);
  }
  const labels = Object.entries(asObject(object.labels, `${what}: labels`)).map(([key, value]) => [
    key,
    asString(value, `${what}: labels.${key}`),
  ]);
  const usage = object.usage === undefined ? undefined : asObject(object.usage, `${what}: usage`);
  const lazy = object.lazy === undefined ? undefined : asObject(object.lazy, `${what}: lazy`);
  const count = (value: unknown, name: string): number => {
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
    throw new OcifsError("corrupt", `${what}: ${name} is not a whole number from 0`);
  };
  return {
    id,
    name: asString(object.name, `${what}: name`),
    parent: asString(object.parent, `${what}: parent`),
    kind,
    labels: Object.fromEntries(labels),
    createdMs: count(object.createdMs, "createdMs"),
    updatedMs: count(object.updatedMs, "updatedMs"),
    ...(usage && { usage: { bytes: count(usage.bytes, "usage.bytes"), inodes: count(usage.inodes, "usage.inodes") } }),
    ...(lazy && {
      lazy: {
        source: asString(lazy.source, `${what}: lazy.source`),
        manifest: parseDigest(asString(lazy.manifest, `${what}: lazy.manifest`)),
        layer: count(lazy.layer, "lazy.layer"),
        layers: count(lazy.layers, "lazy.layers"),
        blob: parseDigest(asString(lazy.blob, `${what}: lazy.blob`)),
      },
    }),
  };
}
