import { deviceTagBytes } from "../erofs/format.js";
import { type Digest, hexOf } from "../oci/digest.js";

/** What stands in a layer's device slot of a merged tarindex: its digest in hex, of a sha512 the first half. */
export function deviceTagOf(digest: Digest): string {
  return hexOf(digest).slice(0, deviceTagBytes);
}
