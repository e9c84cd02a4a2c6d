import { open } from "node:fs/promises";
import { join } from "node:path";
import { isOcifsError } from "../base/errors.js";
import type { CompressedFile } from "../cache/compressed-file.js";
import { flushFile } from "../cache/raw-file.js";
import { clearVerified, markVerified, verifiedDigest, type WholeFile } from "../cache/verified-marks.js";
import type { SpanStore } from "../native/layer.js";
import { dataRanges } from "../native/sparse.js";
import type { Digest } from "../oci/digest.js";

/** What was written and checked to its end just now, and is not flushed yet. */
export interface FilledNow {
  readonly blob: boolean;
  readonly tar: boolean;
}

export interface LayerMarksOptions {
  /** Where the layer's cache files are. */
  readonly directory: string;
  /** The part of the names of `data-<key>` and `spans-<key>`. */
  readonly key: string;
  readonly blobDigest: Digest;
  /** Of the tar, where the index recorded it. */
  readonly tarDigest: Digest | undefined;
  readonly compressed: CompressedFile;
  readonly store: SpanStore;
}

/**
 * What is known to be whole, right and flushed of one layer's cache files: its blob, its tar. The knowledge outlives the
 * process in the marks beside the files; see cache/verified-marks.ts.
 */
export class LayerMarks {
  readonly #o: LayerMarksOptions;
  #blob = false;
  #tar = false;
  #unmarked: FilledNow = { blob: false, tar: false };

  private constructor(options: LayerMarksOptions) {
    this.#o = options;
  }

  /** Reads the marks, and takes away what holes contradict. */
  static async open(options: LayerMarksOptions): Promise<LayerMarks> {
    const marks = new LayerMarks(options);
    await marks.#readBlob();
    await marks.#readTar();
    return marks;
  }

  /** The blob is whole and has its digest. */
  get blobVerified(): boolean {
    const { compressed } = this.#o;
    return this.#blob && compressed.has({ begin: 0, end: compressed.sizeBytes });
  }

  /** The tar is whole and has its digest: nothing of this layer needs the network any more. */
  get tarVerified(): boolean {
    if (!this.#tar) return false;
    const { spans, dataSpans } = this.#o.store.stats();
    return dataSpans === spans;
  }

  /** Takes the word of who has just filled the files; `keepFilled` makes it last. */
  trust({ blob, tar }: FilledNow): void {
    const { compressed, store } = this.#o;
    const { spans, dataSpans } = store.stats();
    this.#blob ||= blob && compressed.has({ begin: 0, end: compressed.sizeBytes });
    this.#tar ||= tar && dataSpans === spans;
    this.#unmarked = { blob: blob && this.#blob, tar: tar && this.#tar };
  }

  /** Flushes and marks what `trust` was told of. Throws `io`. */
  async keepFilled(): Promise<void> {
    const { blob, tar } = this.#unmarked;
    this.#unmarked = { blob: false, tar: false };
    if (blob && this.blobVerified) {
      await this.markBlob();
      // Some may have been given up before there was a mark to take away.
      if (!this.blobVerified) await this.clearBlob();
    }
    const { tarDigest } = this.#o;
    if (tar && this.tarVerified && tarDigest !== undefined) {
      await this.markTar(tarDigest);
      if (!this.tarVerified) await this.clearTar();
    }
  }

  /** Call when the blob was found to be right. Flushes it first. Throws `io`. */
  async markBlob(): Promise<void> {
    await this.#mark("compressed", this.#o.blobDigest, ["compressed"]);
    this.#blob = true;
  }

  /** Call when the tar in `data`, of this digest, was found to be right. Flushes it and its states first. Throws `io`. */
  async markTar(digest: Digest): Promise<void> {
    // The states, too: a mark beside states that a power cut took back would be wrong.
    await this.#mark(this.#data, digest, [this.#data, `spans-${this.#o.key}`]);
    this.#tar = true;
  }

  /** Call before a byte of the blob is given up. */
  async clearBlob(): Promise<void> {
    this.#blob = false;
    await clearVerified(this.#o.directory, "compressed");
  }

  /** Call before a span is given up. */
  async clearTar(): Promise<void> {
    this.#tar = false;
    await clearVerified(this.#o.directory, this.#data);
  }

  get #data(): WholeFile {
    return `data-${this.#o.key}`;
  }

  async #mark(name: WholeFile, digest: Digest, files: readonly string[]): Promise<void> {
    for (const file of files) await flushFile(join(this.#o.directory, file));
    await markVerified(this.#o.directory, name, digest);
  }

  async #readBlob(): Promise<void> {
    const { directory, compressed, blobDigest } = this.#o;
    const digest = await readMark(directory, "compressed");
    if (digest === undefined) return;
    this.#blob = digest === blobDigest && compressed.has({ begin: 0, end: compressed.sizeBytes });
    if (!this.#blob) await this.clearBlob();
  }

  async #readTar(): Promise<void> {
    const { directory, store, tarDigest } = this.#o;
    const digest = await readMark(directory, this.#data);
    // Right by another index of the same spans: this one is still to be compared.
    if (digest === undefined || (tarDigest !== undefined && digest !== tarDigest)) return;
    const holes = await this.#holesOfData();
    if (holes.length > 0) {
      await this.clearTar();
      // Their states may still say that they are present; holes read as zeros.
      for (const { begin, end } of holes) await store.evict(store.spanAt(begin), store.spanAt(end - 1));
      return;
    }
    // All of it was flushed before it was marked, so a power cut since has taken nothing.
    store.trustSuspect();
    const { spans, dataSpans } = store.stats();
    if (dataSpans === spans) this.#tar = true;
    else await this.clearTar();
  }

  async #holesOfData(): Promise<{ begin: number; end: number }[]> {
    const { sizeBytes } = this.#o.store.stats();
    await using file = await open(join(this.#o.directory, this.#data), "r");
    const holes: { begin: number; end: number }[] = [];
    let at = 0;
    for (const { begin, end } of dataRanges(file.fd, 0, sizeBytes)) {
      if (begin > at) holes.push({ begin: at, end: begin });
      at = end;
    }
    if (at < sizeBytes) holes.push({ begin: at, end: sizeBytes });
    return holes;
  }
}

/** What is no mark is taken away. */
async function readMark(directory: string, name: WholeFile): Promise<Digest | undefined> {
  try {
    return await verifiedDigest(directory, name);
  } catch (error) {
    if (!isOcifsError(error, "usage")) throw error;
    await clearVerified(directory, name);
    return undefined;
  }
}
