import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { OpenLayer } from "../layer/open-layer.js";
import { Pace } from "../layer/pace.js";
import type { Digest } from "../oci/digest.js";

/** As much as is asked for at a time, so that a second caller's reads are not far behind. */
const AHEAD_BYTES = 8 << 20;

/**
 * Makes all of a layer present, as fast as demand goes, and checks it: the digest of its tar, which is what the image says.
 * Throws `mismatch` for a layer that is not what it should be, `io` without a disk cache, and what fetching throws.
 */
export async function completeLayer(layer: OpenLayer, signal: AbortSignal): Promise<Digest> {
  const { digest } = layer.source;
  if (!layer.files) throw new OcifsError("io", `layer ${digest}: there is no disk cache that it could be completed in`);
  await layer.keepFilled();
  const wanted = await layer.tarDigest(signal);
  if (layer.complete && wanted !== undefined) return wanted;
  for (let at = 0; at < layer.device.sizeBytes && !layer.complete; at += AHEAD_BYTES) {
    throwIfAborted(signal, `layer ${digest}`);
    const end = Math.min(layer.device.sizeBytes, at + AHEAD_BYTES) - 1;
    await layer.spans.ensure(layer.store.spanAt(at), layer.store.spanAt(end), { signal });
  }
  // What is left is hashing, and marking the layer as checked.
  const outcome = await layer.fill(new Pace(), signal);
  if (outcome.kind !== "complete") throw outcome.error;
  if (wanted !== undefined && outcome.tarDigest !== wanted) {
    throw new OcifsError("mismatch", `layer ${digest}: its tar has digest ${outcome.tarDigest}, want ${wanted}`);
  }
  return outcome.tarDigest;
}
