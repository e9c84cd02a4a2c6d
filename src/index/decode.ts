import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { BlobInput } from "./blob-input.js";

/** Bytes decoded at a time; two such buffers exist. */
const outputBytes = 2 << 20;
const noStarts = new Float64Array(0);

/** Turns the bytes of a blob that streams by into those of its tar, whatever the blob is compressed with. */
export interface BlobDecoder {
  /**
   * Takes `input` until it is used up or `output` is full, on a pool thread; neither may be changed before the promise
   * settles. When `output` came back full it is called again, with the rest of the input or with none.
   */
  step(input: Uint8Array, output: Uint8Array): Promise<{ readonly consumed: number; readonly produced: number }>;
  /** Where spans begin, of those that were not told yet: bytes of the tar, none behind what was decoded. Without it nobody knows. */
  takeSpanStarts?(): Float64Array;
}

/** What a recorder knows once the last byte was taken; sizes are bytes. */
export interface RecordedLayer {
  readonly uncompressedSizeBytes: number;
  readonly checkpointCount: number;
  /** Bytes of the blob behind the end of its stream, which nobody reads. */
  readonly trailingBytes: number;
}

/** A decoder that writes down on the way where decoding can start again: what makes the blob randomly readable. */
export interface LayerRecorder extends BlobDecoder {
  finish(): RecordedLayer;
  takeSpanStarts(): Float64Array;
  /** Frees its memory; safe at any time, also during a step. */
  close(): void;
}

/**
 * Decodes a blob and hands on the uncompressed bytes in order. While pool threads decode into one buffer and hash
 * the input, `onTar` works on the other; it is told where spans begin in them, or right behind them, and given no bytes only for that.
 * `onTar` must be done with its bytes when its promise settles.
 */
export async function decodeBlob(
  first: Uint8Array,
  input: BlobInput,
  decoder: BlobDecoder,
  onTar: (bytes: Uint8Array, spanStarts: Float64Array) => Promise<void>,
): Promise<void> {
  let output = new Uint8Array(outputBytes);
  let spare = new Uint8Array(outputBytes);
  let decoded = output.subarray(0, 0);
  let spanStarts: Float64Array = noStarts;
  let totalBytes = 0;
  for (let piece: Uint8Array | undefined = first; piece !== undefined; piece = await input.next()) {
    let at = 0;
    let accounted = false;
    let more = true;
    while (more) {
      // Accounted once, beside its first step.
      const running = Promise.allSettled([
        decoder.step(piece.subarray(at), output),
        accounted ? undefined : input.account(piece),
      ]);
      accounted = true;
      try {
        if (decoded.length > 0 || spanStarts.length > 0) await onTar(decoded, spanStarts);
      } finally {
        // The buffers belong to the pool threads until the step is over, whatever happens here.
        await running;
      }
      const [step, account] = await running;
      if (step.status === "rejected") throw step.reason;
      if (account.status === "rejected") throw account.reason;
      const { consumed, produced } = step.value;
      totalBytes += produced;
      if (totalBytes > limits.layerTarBytes) {
        throw new OcifsError("limit", `index create: the layer inflates to more than ${limits.layerTarBytes} bytes`);
      }
      if (consumed === 0 && produced === 0 && at < piece.length) {
        throw new OcifsError("internal", "index create: the layer's decoder makes no progress");
      }
      at += consumed;
      more = at < piece.length || produced === output.length;
      decoded = output.subarray(0, produced);
      spanStarts = decoder.takeSpanStarts?.() ?? noStarts;
      [output, spare] = [spare, output];
    }
  }
  if (decoded.length > 0 || spanStarts.length > 0) await onTar(decoded, spanStarts);
}
