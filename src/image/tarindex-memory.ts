import { createHash } from "node:crypto";
import { closeSync } from "node:fs";
import { open } from "node:fs/promises";
import { messageOf, OcifsError, throwIfAborted } from "../base/errors.js";
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
 * `wanted` is the digest that ocifs noted when it wrote the tarindex; undefined for one that others wrote.
 * `mismatch` when the bytes do not have the wanted digest, `not-found`, `io` or `limit`.
 */
export async function openTarindexCopy(
  path: string,
  wanted: Digest | undefined,
  signal?: AbortSignal,
): Promise<ErofsImage> {
  const hash = createHash("sha256");
  const check = () => {
    const got = `sha256:${hash.digest("hex")}`;
    if (wanted === undefined || got === wanted) return;
    throw new OcifsError("mismatch", `tarindex ${path}: digest ${got}, want ${wanted}; create the index again`);
  };
  return await openTarindexInMemory(piecesOf(path), {
    written: wanted !== undefined,
    onPiece: (piece) => hash.update(piece),
    onEnd: check,
    signal,
  });
}

/** Opens a tarindex that exists in no file. `written`: by ocifs. `onPiece` gets its bytes in order; what it or `onEnd` throws ends the opening. */
export async function openTarindexInMemory(
  pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  options: {
    readonly written?: boolean;
    readonly onPiece?: (piece: Uint8Array) => unknown;
    readonly onEnd?: () => unknown;
    readonly signal?: AbortSignal | undefined;
  } = {},
): Promise<ErofsImage> {
  const fd = openMemoryFile(0);
  try {
    let at = 0;
    for await (const piece of pieces) {
      throwIfAborted(options.signal, "tarindex");
      await writeFully(fd, piece, at);
      await options.onPiece?.(piece);
      at += piece.length;
    }
    await options.onEnd?.();
    return new ErofsImage(fd, { xattrsAreFlagged: options.written === true });
  } finally {
    closeSync(fd);
  }
}

/** The bytes of a file; a piece is overwritten by the next one. */
async function* piecesOf(path: string): AsyncGenerator<Uint8Array> {
  const file = await open(path, "r").catch((cause: NodeJS.ErrnoException) => {
    const code = cause.code === "ENOENT" ? "not-found" : "io";
    throw new OcifsError(code, `tarindex ${path}: ${messageOf(cause)}`, { cause });
  });
  try {
    const { size } = await file.stat();
    if (size > limits.tarindexBytes) {
      throw new OcifsError("limit", `tarindex ${path}: ${size} bytes, the limit is ${limits.tarindexBytes}`);
    }
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, size));
    for (let at = 0; at < size; ) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, size - at), at);
      if (bytesRead === 0) throw new OcifsError("io", `tarindex ${path}: it shrank while it was read`);
      yield buffer.subarray(0, bytesRead);
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}
