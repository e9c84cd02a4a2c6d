import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { ByteStepper } from "../native/inflate.js";
import type { BlobInput } from "./blob-input.js";

/** Bytes inflated at a time; two such buffers exist. */
const outputBytes = 2 << 20;

/**
 * Decodes a blob, gzip or zstd, and hands on the uncompressed bytes in order. While a pool thread inflates into one buffer, this
 * thread hashes the input and lets `onTar` work on the other. `onTar` must be done with its bytes when it returns.
 */
export async function inflateBlob(
  first: Uint8Array,
  input: BlobInput,
  decoder: ByteStepper,
  onTar: (bytes: Uint8Array) => void,
): Promise<void> {
  let output = new Uint8Array(outputBytes);
  let spare = new Uint8Array(outputBytes);
  let inflated = output.subarray(0, 0);
  let totalBytes = 0;
  for (let piece: Uint8Array | undefined = first; piece !== undefined; piece = await input.next()) {
    let at = 0;
    let accounted = false;
    let more = true;
    while (more) {
      const running = Promise.allSettled([decoder.step(piece.subarray(at), output)]);
      try {
        if (!accounted) input.account(piece);
        accounted = true;
        if (inflated.length > 0) onTar(inflated);
      } finally {
        // The buffers belong to the pool thread until the step is over, whatever happens here.
        await running;
      }
      const [step] = await running;
      if (step.status === "rejected") throw step.reason;
      const { consumed, produced } = step.value;
      totalBytes += produced;
      if (totalBytes > limits.layerTarBytes) {
        throw new OcifsError("limit", `index create: the layer inflates to more than ${limits.layerTarBytes} bytes`);
      }
      if (consumed === 0 && produced === 0 && at < piece.length) {
        throw new OcifsError("internal", "index create: the decoder makes no progress");
      }
      at += consumed;
      more = at < piece.length || produced === output.length;
      inflated = output.subarray(0, produced);
      [output, spare] = [spare, output];
    }
  }
  if (inflated.length > 0) onTar(inflated);
}
