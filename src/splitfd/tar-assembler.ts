import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { TarEntry } from "../tar/entry.js";
import { EntryPlace } from "../tar/quote.js";
import { type TarEnd, TarWalker } from "../tar/walker.js";
import type { ContentReference, StreamEvent } from "./events.js";

/** Who takes the tar that a stream stands for. Awaited one after the other, in the order of the tar. */
export interface TarSink {
  /** An entry whose headers are complete. Its content follows. */
  entry(entry: TarEntry): void;
  /** Bytes of the tar at `offset`; valid until the promise settles. */
  bytes(bytes: Uint8Array, offset: number): Promise<void>;
  /** Instead of bytes: all of the entry's content, from `entry.dataOffset` of the tar on. */
  reference(to: ContentReference, entry: TarEntry): Promise<void>;
}

/**
 * How the chunks of splitfdstream are meant. `tar-preserving`: they add up to the tar, byte for byte. `header-then-content`: a chunk
 * of headers for each entry, then one of content for a file that is not empty; padding and the end of the archive are left out.
 */
export type Reading = "tar-preserving" | "header-then-content";

/** Puts a tar together from the events of a decoder, and checks that each whole file stands where the tar has one of its size. */
export class TarAssembler {
  readonly #sink: TarSink;
  readonly #reading: Reading;
  readonly #walker: TarWalker;
  readonly #entries: TarEntry[] = [];
  #last: TarEntry | undefined;
  #offset = 0;
  /** Of the chunk that is being read. */
  #chunkLeft = 0;
  /** header-then-content: the file whose content comes next. */
  #awaiting: TarEntry | undefined;

  constructor(sink: TarSink, reading: Reading = "tar-preserving") {
    this.#sink = sink;
    this.#reading = reading;
    this.#walker = new TarWalker((entry) => this.#entries.push(entry));
  }

  /** Bytes of the tar so far. */
  get sizeBytes(): number {
    return this.#offset;
  }

  async take(event: StreamEvent): Promise<void> {
    if (event.kind === "begin") return this.#begin(event);
    if (event.kind === "bytes") return await this.#takeBytes(event.bytes);
    const entry = this.#fileHere(event.sizeBytes);
    this.#walker.pass(entry.sizeBytes);
    await this.#sink.reference(event.to, entry);
    this.#offset += entry.sizeBytes;
    if (this.#reading === "header-then-content") await this.#endContent(entry);
  }

  /** To be called after the last event. Throws `corrupt` when the tar is cut off. */
  async finish(): Promise<TarEnd> {
    if (this.#reading === "header-then-content") {
      if (this.#awaiting) throw new OcifsError("corrupt", `${placeOf(this.#awaiting)}: its content is missing`);
      await this.#push(new Uint8Array(1024));
    }
    return this.#walker.finish();
  }

  #begin({ of, sizeBytes }: StreamEvent & { kind: "begin" }): void {
    this.#chunkLeft = sizeBytes;
    if (of === "content") this.#fileHere(sizeBytes);
    if (this.#reading === "tar-preserving" || sizeBytes === 0) return;
    if (this.#awaiting) this.#fileHere(sizeBytes);
    else if (sizeBytes > 2 * limits.paxBytes) {
      throw new OcifsError(
        "limit",
        `splitfdstream: headers of ${sizeBytes} bytes, the limit is ${2 * limits.paxBytes}`,
      );
    }
  }

  async #takeBytes(bytes: Uint8Array): Promise<void> {
    this.#chunkLeft -= bytes.length;
    const file = this.#awaiting;
    const before = this.#last;
    await this.#push(bytes);
    if (this.#reading === "tar-preserving" || this.#chunkLeft > 0) return;
    if (file) return await this.#endContent(file);
    const entry = this.#last;
    if (!entry || entry === before || dataStart(entry) !== this.#offset) {
      throw new OcifsError(
        "corrupt",
        `splitfdstream: the chunk that ends at byte ${this.#offset} of the tar is not one entry's headers`,
      );
    }
    if (entry.segments) {
      throw new OcifsError("unsupported", `${placeOf(entry)}: a sparse file in header-then-content reading`);
    }
    if (entry.type === "file" && entry.sizeBytes > 0) this.#awaiting = entry;
  }

  async #endContent(entry: TarEntry): Promise<void> {
    this.#awaiting = undefined;
    const padding = (512 - (entry.sizeBytes % 512)) % 512;
    if (padding > 0) await this.#push(new Uint8Array(padding));
  }

  async #push(bytes: Uint8Array): Promise<void> {
    const before = this.#last;
    this.#walker.push(bytes);
    for (const entry of this.#entries.splice(0)) {
      this.#sink.entry(entry);
      this.#last = entry;
    }
    if (
      this.#reading === "header-then-content" &&
      this.#awaiting === undefined &&
      this.#chunkLeft > 0 &&
      this.#last !== before
    ) {
      throw new OcifsError(
        "corrupt",
        `splitfdstream: ${this.#chunkLeft} bytes follow the headers of ${placeOf(this.#last)} in their chunk`,
      );
    }
    await this.#sink.bytes(bytes, this.#offset);
    this.#offset += bytes.length;
  }

  /** The file whose content begins at this byte of the tar. */
  #fileHere(sizeBytes: number | undefined): TarEntry {
    const entry = this.#last;
    if (entry?.type !== "file" || entry.segments || entry.dataOffset !== this.#offset) {
      throw new OcifsError(
        "corrupt",
        `stream: a file's content at byte ${this.#offset} of the tar, where no file begins`,
      );
    }
    if (sizeBytes !== undefined && sizeBytes !== entry.sizeBytes) {
      throw new OcifsError(
        "corrupt",
        `${placeOf(entry)}: content of ${sizeBytes} bytes, its header says ${entry.sizeBytes}`,
      );
    }
    return entry;
  }
}

function dataStart(entry: TarEntry): number {
  return entry.dataOffset;
}

function placeOf(entry: TarEntry | undefined): string {
  return entry ? String(new EntryPlace(entry.path, entry.headerOffset)) : "an entry";
}
