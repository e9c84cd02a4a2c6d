/** Bytes a message quotes at most: a path of 4 KiB would drown the sentence it stands in. */
const quotedBytes = 200;

/**
 * What a message is about. Told to every function that may fail for each of many entries, so it is turned into text only when one does.
 */
export interface Where {
  toString(): string;
}

/** "tar entry NAME at byte N". */
export class EntryPlace implements Where {
  readonly #name: Uint8Array;
  readonly #offset: number | undefined;

  constructor(name: Uint8Array, offset?: number) {
    this.#name = name;
    this.#offset = offset;
  }

  toString(): string {
    return `tar entry ${quoteBytes(this.#name)}${this.#offset === undefined ? "" : ` at byte ${this.#offset}`}`;
  }
}

const empty = new Uint8Array(0);

/**
 * A copy of bytes [start, end) from Node's buffer pool: many small copies cost less this way than an ArrayBuffer each. For bytes
 * that do not live long.
 */
export function copyOf(bytes: Uint8Array, start = 0, end = bytes.length): Uint8Array {
  if (start === end) return empty;
  const copy = Buffer.allocUnsafe(end - start);
  for (let i = start; i < end; i++) copy[i - start] = bytes[i] ?? 0;
  return copy;
}

/** A file name or path for a message: quoted, control characters and quotes escaped, long ones cut. */
export function quoteBytes(bytes: Uint8Array): string {
  const cut = bytes.length > quotedBytes;
  const shown = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, quotedBytes)).toString("utf8");
  return cut ? `${JSON.stringify(shown)}…` : JSON.stringify(shown);
}
