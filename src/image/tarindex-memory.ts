import { createHash } from "node:crypto";
import { closeSync } from "node:fs";
import { open } from "node:fs/promises";
import { messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { writeFully } from "../cache/raw-file.js";
import { ErofsImage } from "../native/erofs.js";
import { openMemoryFile } from "../native/sparse.js";
import type { Digest } from "../oci/digest.js";

const CHUNK_BYTES = 1 << 20;

/**
 * Opens a tarindex as a private copy in memory. A mapped file that somebody truncates kills the process that touches it
 * (SIGBUS), and one that somebody rewrites changes the tree under its readers; a copy can do neither. Tarindexes are small:
 * about 140 bytes an entry.
 * `mismatch` when the bytes do not have the wanted digest.
 */
export async function openTarindexCopy(path: string, wanted: Digest | undefined): Promise<ErofsImage> {
  const file = await open(path, "r").catch((cause: NodeJS.ErrnoException) => {
    const code = cause.code === "ENOENT" ? "not-found" : "io";
    throw new OcifsError(code, `tarindex ${path}: ${messageOf(cause)}`, { cause });
  });
  try {
    const { size } = await file.stat();
    if (size > limits.tarindexBytes) {
      throw new OcifsError("limit", `tarindex ${path}: ${size} bytes, the limit is ${limits.tarindexBytes}`);
    }
    const fd = openMemoryFile(size);
    try {
      const hash = createHash("sha256");
      const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
      for (let at = 0; at < size; ) {
        const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, size - at), at);
        if (bytesRead === 0) throw new OcifsError("io", `tarindex ${path}: it shrank while it was read`);
        hash.update(buffer.subarray(0, bytesRead));
        await writeFully(fd, buffer.subarray(0, bytesRead), at);
        at += bytesRead;
      }
      const got = `sha256:${hash.digest("hex")}`;
      if (wanted !== undefined && got !== wanted) {
        throw new OcifsError(
          "mismatch",
          `tarindex ${path}: digest ${got}, its JSON wants ${wanted}; create the index again`,
        );
      }
      return new ErofsImage(fd);
    } finally {
      closeSync(fd);
    }
  } finally {
    await file.close();
  }
}
