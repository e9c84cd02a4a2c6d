import { OcifsError } from "../base/errors.js";
import type { Descriptor } from "./descriptor.js";
import { algorithmOf, type Digest, hasherOf } from "./digest.js";

/** Throws `mismatch` unless `bytes` have this digest. */
export function checkDigest(bytes: Uint8Array, wanted: Digest, what: string): void {
  const found = `${algorithmOf(wanted)}:${hasherOf(wanted).update(bytes).digest("hex")}`;
  if (found !== wanted) {
    throw new OcifsError("mismatch", `${what}: these ${bytes.length} bytes have digest ${found}; want ${wanted}`);
  }
}

/** Throws `mismatch` unless `bytes` are what the descriptor describes, by size and by digest. */
export function checkContent(bytes: Uint8Array, descriptor: Descriptor, what: string): void {
  if (bytes.length !== descriptor.sizeBytes) {
    throw new OcifsError("mismatch", `${what}: ${bytes.length} bytes; its descriptor says ${descriptor.sizeBytes}`);
  }
  checkDigest(bytes, descriptor.digest, what);
}
