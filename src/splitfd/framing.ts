import { OcifsError } from "../base/errors.js";
import type { StreamEvent } from "./events.js";

/** What tells the chunks of one format apart. */
export interface Framing {
  readonly name: string;
  /** Bytes of the header that starts with these bytes, as far as they tell: asked again when there are that many. */
  headerBytes(header: Uint8Array): number;
  /** What a whole header says. A `begin` is followed by its bytes. Throws `corrupt` or `limit`. */
  parse(header: Uint8Array, offset: number): StreamEvent & { readonly kind: "begin" | "reference" };
}

/** Takes a stream apart that comes in pieces of any size. Holds one header at most; bytes are views of what was pushed. */
export class ChunkDecoder {
  readonly #framing: Framing;
  #header = Buffer.alloc(64);
  #fill = 0;
  #bodyLeft = 0;
  #offset = 0;

  constructor(framing: Framing) {
    this.#framing = framing;
  }

  *push(chunk: Uint8Array): Generator<StreamEvent> {
    for (let at = 0; at < chunk.length; ) {
      if (this.#bodyLeft > 0) {
        const bytes = chunk.subarray(at, at + this.#bodyLeft);
        this.#bodyLeft -= bytes.length;
        this.#offset += bytes.length;
        at += bytes.length;
        yield { kind: "bytes", bytes };
        continue;
      }
      const want = this.#wanted();
      const part = chunk.subarray(at, at + want - this.#fill);
      this.#reserve(want);
      this.#header.set(part, this.#fill);
      this.#fill += part.length;
      this.#offset += part.length;
      at += part.length;
      if (this.#fill < this.#wanted()) continue;
      const event = this.#framing.parse(Buffer.from(this.#header.subarray(0, this.#fill)), this.#offset - this.#fill);
      this.#fill = 0;
      if (event.kind === "begin") this.#bodyLeft = event.sizeBytes;
      yield event;
    }
  }

  /** To be called after the last byte. Throws `corrupt` when the stream stops inside a chunk. */
  finish(): void {
    if (this.#fill === 0 && this.#bodyLeft === 0) return;
    const missing = this.#bodyLeft > 0 ? `${this.#bodyLeft} more bytes of a chunk` : "the rest of a chunk's header";
    throw new OcifsError("corrupt", `${this.#framing.name}: ends at byte ${this.#offset}, want ${missing}`);
  }

  #wanted(): number {
    return this.#framing.headerBytes(this.#header.subarray(0, this.#fill));
  }

  #reserve(bytes: number): void {
    if (bytes <= this.#header.length) return;
    const larger = Buffer.alloc(bytes);
    larger.set(this.#header.subarray(0, this.#fill));
    this.#header = larger;
  }
}
