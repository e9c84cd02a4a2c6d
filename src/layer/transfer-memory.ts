import { OcifsError } from "../base/errors.js";
import type { BlobSource } from "../blob/blob-source.js";
import { CompressedFile } from "../cache/compressed-file.js";
import type { ByteRange } from "../native/sparse.js";
import { fetchSizes } from "./fetch-sizes.js";
import type { Transfer } from "./transfer.js";

/** Bytes that were written and are missing again this often: others want the memory. */
const MAX_TRIES = 16;

/** Where compressed bytes of one blob go that the disk has no room for. Bounded: what is there gives way to what comes. */
export class TransferMemory implements AsyncDisposable {
  readonly #source: BlobSource;
  #file: CompressedFile | undefined;
  /** Oldest first. */
  #transfers: Transfer[] = [];

  constructor(source: BlobSource) {
    this.#source = source;
  }

  /** Undefined as long as nothing was kept. */
  get file(): CompressedFile | undefined {
    return this.#file;
  }

  /** The file to write `wanted` to. `limit` when it is more than is kept, `io` after too many tries. */
  open(wanted: ByteRange, tries: number): CompressedFile {
    const bytes = wanted.end - wanted.begin;
    const { description, sizeBytes } = this.#source;
    if (bytes > fetchSizes.memoryBytes) {
      throw new OcifsError(
        "limit",
        `${description}: ${bytes} bytes are wanted at once and the disk cache cannot take them; the limit of memory is ${fetchSizes.memoryBytes}`,
      );
    }
    if (tries >= MAX_TRIES) {
      throw new OcifsError(
        "io",
        `${description}: bytes ${wanted.begin} to ${wanted.end} were given up ${tries} times before they could be read; give the cache a disk with space`,
      );
    }
    this.#file ??= CompressedFile.openInMemory(sizeBytes);
    return this.#file;
  }

  /** Makes room for a transfer; what `keep` says yes to stays. */
  makeRoom(transfer: Transfer, keep: (old: Transfer) => boolean): void {
    this.#transfers.push(transfer);
    const used = () => this.#transfers.reduce((sum, t) => sum + t.end - t.begin, 0);
    for (const old of [...this.#transfers]) {
      if (used() <= fetchSizes.memoryBytes || old === transfer) break;
      if (keep(old)) continue;
      this.#file?.discard({ begin: old.begin, end: old.end });
      this.#transfers = this.#transfers.filter((t) => t !== old);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]();
    this.#file = undefined;
  }
}
