import { OcifsError } from "../base/errors.js";
import type { LayerDevice } from "../layer/layer-device.js";
import { algorithmOf, type Digest, hasherOf } from "../oci/digest.js";
import type { ContentReference, StreamEvent } from "../splitfd/events.js";
import { encodeSplitDirFd } from "../splitfd/splitdirfdstream.js";
import { encodeSplitFd } from "../splitfd/splitfdstream.js";
import type { Reading } from "../splitfd/tar-assembler.js";
import type { ContentStore } from "./content-store.js";
import { headerThenContentEvents, layerEvents } from "./layer-events.js";
import { type ContentTable, type FileTable, INLINE_BYTES, objectNameOf, readFileTable } from "./layer-table.js";

export type Write = (bytes: Uint8Array) => Promise<void>;

const PIECE_BYTES = 1 << 20;
/** Small chunks are joined before they are written: a layer has several for each file. */
const JOINED_BYTES = 256 << 10;

/** The tar of a layer. Throws `mismatch` at its end when it is not the wanted one: what was written is then to be thrown away. */
export async function exportTar(
  device: LayerDevice,
  diffId: Digest | undefined,
  write: Write,
  signal: AbortSignal,
): Promise<void> {
  const check = new TarCheck(diffId);
  for (let at = 0; at < device.sizeBytes; at += PIECE_BYTES) {
    const bytes = await device.read(at, PIECE_BYTES, signal);
    check.update(bytes);
    await write(bytes);
  }
  check.finish();
}

export interface ExportStreamOptions {
  readonly device: LayerDevice;
  readonly format: "splitfdstream" | "splitdirfdstream";
  readonly reading?: Reading;
  /** Undefined: every content is in the stream. */
  readonly store: ContentStore | undefined;
  /** splitfdstream: which files of the store's table come as descriptors, in their order. */
  readonly files?: readonly number[];
  readonly diffId: Digest | undefined;
  readonly signal: AbortSignal;
}

/** A layer as a stream, with the store's files named and the others inline. What is wholly inline is checked like a tar. */
export async function exportStream(o: ExportStreamOptions, write: Write): Promise<void> {
  const { device, store, format, signal } = o;
  const table: FileTable = store?.table ?? (await readFileTable(device, signal));
  const check = new TarCheck(store || o.reading === "header-then-content" ? undefined : o.diffId);
  const events = (o.reading === "header-then-content" ? headerThenContentEvents : layerEvents)({
    device,
    table,
    referenceOf: references(o),
    onBytes: (bytes) => check.update(bytes),
    divideContent: format === "splitfdstream" && o.reading !== "header-then-content",
    signal,
  });
  const encode: (event: StreamEvent) => Uint8Array = format === "splitfdstream" ? encodeSplitFd : encodeSplitDirFd;
  let joined: Uint8Array[] = [];
  let size = 0;
  for await (const event of events) {
    const bytes = encode(event);
    joined.push(bytes);
    size += bytes.length;
    if (size < JOINED_BYTES) continue;
    await write(Buffer.concat(joined, size));
    joined = [];
    size = 0;
  }
  check.finish();
  await write(Buffer.concat(joined, size));
}

function references({ store, format, files }: ExportStreamOptions): (i: number) => ContentReference | undefined {
  if (!store) return () => undefined;
  if (format === "splitdirfdstream") return objectReferences(store.table);
  const indexes = new Map((files ?? []).map((file, index) => [file, index]));
  return (i) => {
    const index = indexes.get(i);
    return index === undefined ? undefined : { kind: "fd", index };
  };
}

/** The files of a store by name, with its directory of objects as the only one. */
export function objectReferences(table: ContentTable): (i: number) => ContentReference | undefined {
  return (i) => {
    const name = objectNameOf(table, i);
    return name === undefined ? undefined : { kind: "name", directory: 0, name: Buffer.from(name) };
  };
}

/** The files of a store that are worth a descriptor, the largest `most`, in the order of the tar. */
export function filesWorthPassing({ table }: ContentStore, most: number): number[] {
  const kept = [...table.sizes.keys()].filter((i) => (table.sizes[i] ?? 0) > INLINE_BYTES);
  const largest = kept.sort((a, b) => (table.sizes[b] ?? 0) - (table.sizes[a] ?? 0)).slice(0, most);
  return largest.sort((a, b) => a - b);
}

/** Hashes a tar as it passes. */
class TarCheck {
  readonly #wanted: Digest | undefined;
  readonly #hash;

  constructor(wanted: Digest | undefined) {
    this.#wanted = wanted;
    this.#hash = wanted === undefined ? undefined : hasherOf(wanted);
  }

  update(bytes: Uint8Array): void {
    this.#hash?.update(bytes);
  }

  finish(): void {
    if (this.#wanted === undefined || this.#hash === undefined) return;
    const found = `${algorithmOf(this.#wanted)}:${this.#hash.digest("hex")}`;
    if (found !== this.#wanted) {
      throw new OcifsError(
        "mismatch",
        `export: the layer's tar has digest ${found}, want ${this.#wanted}; what was written is not the layer`,
      );
    }
  }
}
