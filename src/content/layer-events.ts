import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { LayerDevice } from "../layer/layer-device.js";
import type { ContentReference, StreamEvent } from "../splitfd/events.js";
import { EntryPlace } from "../tar/quote.js";
import { type FileTable, walkLayer } from "./layer-table.js";

const PIECE_BYTES = 1 << 20;
/** A literal chunk of a large file in splitfdstream, which may divide one: well below its limit. */
const DIVIDED_BYTES = 64 << 20;

export interface LayerEventsOptions {
  readonly device: LayerDevice;
  readonly table: FileTable;
  /** Where the i-th file of the table is outside of the stream; undefined: in it. */
  readonly referenceOf: (i: number) => ContentReference | undefined;
  /** Gets every byte of the tar that is in the stream. */
  readonly onBytes?: (bytes: Uint8Array) => void;
  /** The format may say one file's content in several chunks. */
  readonly divideContent: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** A layer as events whose bytes and files add up to its tar, byte for byte. */
export async function* layerEvents(o: LayerEventsOptions): AsyncGenerator<StreamEvent> {
  const { device, table } = o;
  let at = 0;
  for (let i = 0; i < table.offsets.length; i++) {
    const offset = table.offsets[i] ?? 0;
    const sizeBytes = table.sizes[i] ?? 0;
    const to = o.referenceOf(i);
    yield* literal(o, "metadata", at, offset, PIECE_BYTES);
    if (to) yield { kind: "reference", to, sizeBytes };
    else yield* literal(o, "content", offset, offset + sizeBytes, o.divideContent ? DIVIDED_BYTES : sizeBytes);
    at = offset + sizeBytes;
  }
  yield* literal(o, "metadata", at, device.sizeBytes, PIECE_BYTES);
}

/**
 * The same for splitfdstream in header-then-content reading: a chunk of headers for each entry, a content for each file that is
 * not empty, and neither padding nor end. Throws `unsupported` for a sparse file. Memory: three numbers an entry.
 */
export async function* headerThenContentEvents(o: LayerEventsOptions): AsyncGenerator<StreamEvent> {
  const entries: { begin: number; dataOffset: number; sizeBytes: number }[] = [];
  let begin = 0;
  const visit: Parameters<typeof walkLayer>[1] = (entry) => {
    if (entry.segments) {
      throw new OcifsError(
        "unsupported",
        `${new EntryPlace(entry.path)}: a sparse file in header-then-content reading`,
      );
    }
    const sizeBytes = entry.type === "file" ? entry.sizeBytes : 0;
    entries.push({ begin, dataOffset: entry.dataOffset, sizeBytes });
    begin = entry.dataOffset + Math.ceil(sizeBytes / 512) * 512;
  };
  await walkLayer(o.device, visit, o.signal);
  let file = 0;
  for (const { begin: start, dataOffset, sizeBytes } of entries) {
    yield* literal(o, "metadata", start, dataOffset, dataOffset - start);
    if (sizeBytes === 0) continue;
    const to = o.referenceOf(file++);
    if (to) yield { kind: "reference", to, sizeBytes };
    else yield* literal(o, "content", dataOffset, dataOffset + sizeBytes, sizeBytes);
  }
}

async function* literal(
  { device, onBytes, signal }: LayerEventsOptions,
  of: "metadata" | "content",
  from: number,
  to: number,
  chunkBytes: number,
): AsyncGenerator<StreamEvent> {
  for (let begin = from; begin < to; begin += chunkBytes) {
    const end = Math.min(to, begin + chunkBytes);
    yield { kind: "begin", of, sizeBytes: end - begin };
    for (let at = begin; at < end; ) {
      throwIfAborted(signal, "layer stream");
      const bytes = await device.read(at, Math.min(PIECE_BYTES, end - at), signal);
      if (bytes.length === 0) throw new OcifsError("corrupt", `layer: ends at byte ${at}, want ${device.sizeBytes}`);
      onBytes?.(bytes);
      at += bytes.length;
      yield { kind: "bytes", bytes };
    }
  }
}
