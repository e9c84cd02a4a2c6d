import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";

const brace = { open: 0x7b, close: 0x7d, listOpen: 0x5b, listClose: 0x5d } as const;
const quote = 0x22;
const backslash = 0x5c;
const separators = new Set([0x00, 0x09, 0x0a, 0x0d, 0x20]);

/**
 * Cuts a byte stream into JSON objects, which end where their last brace does: JSON-RPC puts white space or nothing between them,
 * varlink a NUL. Throws `corrupt` for anything else between objects, `limit` for one that is too long.
 */
export class MessageSplitter {
  #parts: Buffer[] = [];
  #size = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  /** True while bytes of a message have come and its end has not. */
  get inMessage(): boolean {
    return this.#depth > 0;
  }

  *push(bytes: Buffer): Generator<Buffer> {
    let start = 0;
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at] ?? 0;
      if (this.#depth === 0) {
        start = at;
        if (separators.has(byte)) continue;
        if (byte !== brace.open)
          throw new OcifsError("corrupt", `message: byte ${byte} where a JSON object should begin`);
        this.#depth = 1;
      } else if (this.#step(byte)) {
        const message = Buffer.concat([...this.#parts, bytes.subarray(start, at + 1)]);
        this.#parts = [];
        this.#size = 0;
        start = at + 1;
        check(message.length);
        yield message;
      }
    }
    if (this.#depth === 0) return;
    this.#parts.push(Buffer.from(bytes.subarray(start)));
    this.#size += bytes.length - start;
    check(this.#size);
  }

  /** True when the byte ends the message. */
  #step(byte: number): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === backslash) this.#escaped = true;
      else if (byte === quote) this.#inString = false;
      return false;
    }
    if (byte === quote) this.#inString = true;
    else if (byte === brace.open || byte === brace.listOpen) this.#depth++;
    else if (byte === brace.close || byte === brace.listClose) this.#depth--;
    return this.#depth === 0;
  }
}

function check(size: number): void {
  if (size <= limits.controlMessageBytes) return;
  throw new OcifsError("limit", `message: more than ${limits.controlMessageBytes} bytes`);
}
