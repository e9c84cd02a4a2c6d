import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { messageOf, OcifsError, throwIfAborted } from "../base/errors.js";

/** Opens for reading. Throws `not-found`, `usage` for anything that is not a regular file, or `io`. */
export async function openRegularFile(path: string): Promise<FileHandle> {
  let file: FileHandle;
  try {
    // O_NONBLOCK: opening a FIFO must not wait for its writer.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause && cause.code === "ENOENT" ? "not-found" : "io";
    throw new OcifsError(code, `blob ${path}: cannot open: ${messageOf(cause)}`, { cause });
  }
  const stats = await file.stat();
  if (stats.isFile()) return file;
  await file.close();
  throw new OcifsError("usage", `blob ${path}: not a regular file`);
}

/** Between 1 and `length` bytes at `position`, in `into` if that is given. Throws `mismatch` at the end of the file, or `io`. */
export async function readChunk(
  file: FileHandle,
  position: number,
  length: number,
  path: string,
  into?: Buffer,
): Promise<Uint8Array> {
  const buffer = into ?? Buffer.allocUnsafe(length);
  let bytesRead: number;
  try {
    ({ bytesRead } = await file.read(buffer, 0, length, position));
  } catch (cause) {
    throw new OcifsError("io", `blob ${path}: read of ${length} bytes at ${position}: ${messageOf(cause)}`, { cause });
  }
  if (bytesRead === 0)
    throw new OcifsError("mismatch", `blob ${path}: ends at byte ${position}; it was longer when opened`);
  return buffer.subarray(0, bytesRead);
}

/** A whole file of at most `maxBytes`; throws `limit` when it is longer. */
export async function readSmallFile(path: string, maxBytes: number, signal?: AbortSignal): Promise<Uint8Array> {
  await using file = await openRegularFile(path);
  const { size } = await file.stat();
  if (size > maxBytes) throw new OcifsError("limit", `${path}: ${size} bytes, the limit is ${maxBytes}`);
  const chunks: Uint8Array[] = [];
  for (let position = 0; position < size; ) {
    throwIfAborted(signal, path);
    const chunk = await readChunk(file, position, size - position, path);
    chunks.push(chunk);
    position += chunk.length;
  }
  return Buffer.concat(chunks, size);
}
