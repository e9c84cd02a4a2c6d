/** Bytes a message quotes at most: a path of 4 KiB would drown the sentence it stands in. */
const quotedBytes = 200;

/** A file name or path for a message: quoted, control characters and quotes escaped, long ones cut. */
export function quoteBytes(bytes: Uint8Array): string {
  const cut = bytes.length > quotedBytes;
  const shown = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, quotedBytes)).toString("utf8");
  return cut ? `${JSON.stringify(shown)}…` : JSON.stringify(shown);
}
