import { OcifsError } from "../base/errors.js";

/** A window at the end of a file that is written front to back. Bytes are zero until they are set. */
export class OutputBuffer {
  #buffer: Uint8Array;
  #view: DataView;
  #used = 0;
  #taken = 0;

  constructor(sizeBytes: number) {
    this.#buffer = new Uint8Array(sizeBytes + (sizeBytes >> 2));
    this.#view = viewOf(this.#buffer);
  }

  /** Bytes of the file so far, taken ones included. */
  get offset(): number {
    return this.#taken + this.#used;
  }

  /** Bytes not taken yet. */
  get pending(): number {
    return this.#used;
  }

  /** The bytes not taken yet. */
  get bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#used);
  }

  /** Over the window; positions are those `reserve` gives. Valid until the next `reserve`, `append` or `padTo`. */
  get view(): DataView {
    return this.#view;
  }

  /** Adds zero bytes and gives their position in the window. */
  reserve(sizeBytes: number): number {
    const at = this.#used;
    const need = at + sizeBytes;
    if (need > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(need, this.#buffer.length * 2));
      grown.set(this.bytes);
      this.#buffer = grown;
      this.#view = viewOf(grown);
    }
    this.#used = need;
    return at;
  }

  append(bytes: Uint8Array): void {
    // Two statements: `reserve` may replace the buffer.
    const at = this.reserve(bytes.length);
    this.#buffer.set(bytes, at);
  }

  /** Adds zeros up to a byte of the file. */
  padTo(offset: number): void {
    const missing = offset - this.offset;
    if (missing < 0) throw new OcifsError("internal", `output: at byte ${this.offset}, already past ${offset}`);
    this.reserve(missing);
  }

  padToMultiple(of: number): void {
    this.padTo(Math.ceil(this.offset / of) * of);
  }

  /** A copy of the window's bytes; the window then starts behind them. */
  take(): Uint8Array {
    const bytes = this.bytes.slice();
    this.#buffer.fill(0, 0, this.#used);
    this.#taken += this.#used;
    this.#used = 0;
    return bytes;
  }
}

function viewOf(buffer: Uint8Array): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
}
