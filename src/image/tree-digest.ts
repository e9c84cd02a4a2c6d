import { createHash } from "node:crypto";
import type { ErofsImage } from "../native/erofs.js";
import { type Digest, parseDigest } from "../oci/digest.js";

const PIECE_BYTES = 1 << 20;

/** Of all bytes of a tarindex, as it is in memory: two trees with the same digest have the same inodes under the same numbers. */
export function digestOfTree(tree: ErofsImage): Digest {
  const hash = createHash("sha256");
  const { sizeBytes } = tree.info();
  for (let at = 0; at < sizeBytes; at += PIECE_BYTES)
    hash.update(tree.readIndex(at, Math.min(PIECE_BYTES, sizeBytes - at)));
  return parseDigest(`sha256:${hash.digest("hex")}`);
}
