import { isOcifsError, OcifsError } from "../base/errors.js";
import { type ByteRange, dataRanges, openMemoryFile, punchHole, tryLock, unlock } from "../native/sparse.js";
import { closeFd, openFd, sizeOfFd, truncateFd, writeFully } from "./raw-file.js";

/** Unit of presence: whole blocks are written or nothing, so SEEK_DATA never reports a block that is half there. */
export const CACHE_BLOCK_BYTES = 4096;

/**
 * Locks by which readers keep bytes from being given up lie this far behind the bytes, so that they do not meet those of who
 * fetches. Above any blob's size, below 2^53.
 */
const READ_LOCK_OFFSET = 2 ** 52;

/** Rounds outward to cache blocks; the end stays inside the file. */
export function alignToBlocks(range: ByteRange, sizeBytes: number): ByteRange {
  return {
    begin: Math.floor(range.begin / CACHE_BLOCK_BYTES) * CACHE_BLOCK_BYTES,
    end: Math.min(sizeBytes, Math.ceil(range.end / CACHE_BLOCK_BYTES) * CACHE_BLOCK_BYTES),
  };
}

/**
 * The bytes of one blob as served, as far as they were fetched: a sparse file of the blob's size in which data is what was
 * written and holes are what is missing. On disk it is shared between processes; in memory it is this process' own.
 */
export class CompressedFile implements AsyncDisposable {
  readonly fd: number;
  readonly sizeBytes: number;
  readonly onDisk: boolean;

  private constructor(fd: number, sizeBytes: number, onDisk: boolean) {
    this.fd = fd;
    this.sizeBytes = sizeBytes;
    this.onDisk = onDisk;
  }

  /** `mismatch` when the file exists with another size: it then belongs to something else. */
  static async open(path: string, sizeBytes: number): Promise<CompressedFile> {
    const fd = await openFd(path, "create");
    try {
      const size = await sizeOfFd(fd);
      // Two processes may create it at once; both then give it the same size.
      if (size === 0) await truncateFd(fd, sizeBytes);
      else if (size !== sizeBytes) {
        throw new OcifsError(
          "mismatch",
          `cache file ${path}: it has ${size} bytes, the blob ${sizeBytes}; remove the file`,
        );
      }
    } catch (error) {
      await closeFd(fd);
      throw error;
    }
    return new CompressedFile(fd, sizeBytes, true);
  }

  /** The file as it is, whatever its size; undefined when there is none. */
  static async openExisting(path: string): Promise<CompressedFile | undefined> {
    const fd = await openFd(path, "update").catch((error: unknown) => {
      const cause = error instanceof OcifsError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
      if (cause?.code === "ENOENT") return undefined;
      throw error;
    });
    return fd === undefined ? undefined : new CompressedFile(fd, await sizeOfFd(fd), true);
  }

  /** A file in memory, for when the disk cannot be written. Whoever fills it also punches it. */
  static openInMemory(sizeBytes: number): CompressedFile {
    return new CompressedFile(openMemoryFile(sizeBytes), sizeBytes, false);
  }

  /** The parts of `range` that are not there, in order. */
  missing(range: ByteRange): ByteRange[] {
    const out: ByteRange[] = [];
    let at = range.begin;
    for (const data of dataRanges(this.fd, range.begin, range.end)) {
      if (data.begin > at) out.push({ begin: at, end: data.begin });
      at = data.end;
    }
    if (at < range.end) out.push({ begin: at, end: range.end });
    return out;
  }

  /** The parts of `range` that are there, in order. */
  present(range: ByteRange): ByteRange[] {
    return dataRanges(this.fd, range.begin, range.end);
  }

  has(range: ByteRange): boolean {
    return this.missing(range).length === 0;
  }

  /** Bytes that are there. */
  presentBytes(): number {
    return this.present({ begin: 0, end: this.sizeBytes }).reduce((sum, r) => sum + r.end - r.begin, 0);
  }

  /** Forgets the blocks that `range` touches. */
  discard(range: ByteRange): void {
    const { begin, end } = alignToBlocks(range, this.sizeBytes);
    punchHole(this.fd, begin, Math.ceil(end / CACHE_BLOCK_BYTES) * CACHE_BLOCK_BYTES);
  }

  /** Starts writing at `begin`, a block border, towards `end`, a block border or the blob's end. */
  writer(range: ByteRange): BlockWriter {
    return new BlockWriter(this, range);
  }

  /** Single-flight between processes: only the holder fetches these bytes. True when taken; memory files need none. */
  tryLock(range: ByteRange): boolean {
    return !this.onDisk || tryLock(this.fd, range.begin, range.end, "exclusive");
  }

  unlock(range: ByteRange): void {
    if (this.onDisk) unlock(this.fd, range.begin, range.end);
  }

  /** Keeps other processes from giving up bytes that this one reads. False while one of them is about to. */
  tryReadLock(range: ByteRange): boolean {
    return !this.onDisk || tryLock(this.fd, READ_LOCK_OFFSET + range.begin, READ_LOCK_OFFSET + range.end, "shared");
  }

  readUnlock(range: ByteRange): void {
    if (this.onDisk) unlock(this.fd, READ_LOCK_OFFSET + range.begin, READ_LOCK_OFFSET + range.end);
  }

  /** Discards `range`, whole blocks, unless another process reads of it. REQUIRES that nobody does in this one. */
  tryDiscard(range: ByteRange): boolean {
    const { begin, end } = alignToBlocks(range, this.sizeBytes);
    if (begin >= end) return true;
    if (this.onDisk && !tryLock(this.fd, READ_LOCK_OFFSET + begin, READ_LOCK_OFFSET + end, "exclusive")) return false;
    this.discard({ begin, end });
    this.readUnlock({ begin, end });
    return true;
  }

  /**
   * Gives back the blocks that lie inside `range`, unless another process reads or fetches any of them; how many bytes.
   * REQUIRES that nobody does in this process.
   */
  tryGiveUp(range: ByteRange): number {
    const begin = Math.ceil(range.begin / CACHE_BLOCK_BYTES) * CACHE_BLOCK_BYTES;
    const end =
      range.end === this.sizeBytes ? range.end : Math.floor(range.end / CACHE_BLOCK_BYTES) * CACHE_BLOCK_BYTES;
    if (begin >= end || !this.tryLock({ begin, end })) return 0;
    try {
      return this.tryDiscard({ begin, end }) ? end - begin : 0;
    } finally {
      this.unlock({ begin, end });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeFd(this.fd);
  }
}

/** Writes a stream of chunks as whole cache blocks. What is less than a block waits for more, or is never written. */
export class BlockWriter {
  readonly #file: CompressedFile;
  readonly #end: number;
  #written: number;
  #rest: Buffer = Buffer.alloc(0);

  constructor(file: CompressedFile, range: ByteRange) {
    if (
      range.begin % CACHE_BLOCK_BYTES !== 0 ||
      (range.end % CACHE_BLOCK_BYTES !== 0 && range.end !== file.sizeBytes)
    ) {
      throw new OcifsError("internal", `cache write [${range.begin}, ${range.end}): not on block borders`);
    }
    this.#file = file;
    this.#end = range.end;
    this.#written = range.begin;
  }

  /** Everything below it is in the file. */
  get frontier(): number {
    return this.#written;
  }

  /** `no-space` when the disk is full; no partial block is left behind then. */
  async append(chunk: Uint8Array): Promise<void> {
    const all =
      this.#rest.length === 0
        ? Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length)
        : Buffer.concat([this.#rest, chunk]);
    const reachesEnd = this.#written + all.length === this.#end;
    if (this.#written + all.length > this.#end) {
      throw new OcifsError(
        "mismatch",
        `cache write: ${this.#written + all.length - this.#end} bytes more than were asked for`,
      );
    }
    const whole = reachesEnd ? all.length : all.length - (all.length % CACHE_BLOCK_BYTES);
    if (whole > 0) {
      try {
        await writeFully(this.#file.fd, all.subarray(0, whole), this.#written);
      } catch (error) {
        // A write that failed in its middle may have left part of a block.
        this.#file.discard({ begin: this.#written, end: this.#written + whole });
        throw error;
      }
    }
    this.#written += whole;
    // Copied: the rest of a pooled network buffer must not keep all of it alive, nor change under us.
    this.#rest = Buffer.from(all.subarray(whole));
  }
}

/** True for failures of the local disk that a fallback to memory can get around. */
export function isCacheWriteFailure(error: unknown): boolean {
  return isOcifsError(error, "no-space") || isOcifsError(error, "io");
}
