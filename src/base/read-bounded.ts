import { type FileHandle, open } from "node:fs/promises";
import { OcifsError } from "./errors.js";

/**
 * All of a file that should be small, whatever kind of file it is: a size that stat(2) tells is not believed. Throws `limit`
 * when there are more than `maxBytes`; errors of the file system pass as they are. `what` starts the message.
 */
export async function readBounded(path: string, maxBytes: number, what: string): Promise<Buffer> {
  await using file = await open(path, "r");
  return await readBoundedFrom(file, maxBytes, what);
}

/** The same of a file that is open, from its beginning. */
export async function readBoundedFrom(file: FileHandle, maxBytes: number, what: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for (;;) {
    const chunk = Buffer.alloc(Math.min(64 << 10, maxBytes + 1 - sizeBytes));
    const { bytesRead } = await file.read(chunk, 0, chunk.length, null);
    if (bytesRead === 0) return Buffer.concat(chunks, sizeBytes);
    sizeBytes += bytesRead;
    if (sizeBytes > maxBytes) throw new OcifsError("limit", `${what}: more than ${maxBytes} bytes`);
    chunks.push(chunk.subarray(0, bytesRead));
  }
}
