import type { FileHandle } from "node:fs/promises";
import { OcifsError, throwIfAborted } from "../base/errors.js";
import type { Digest } from "../oci/digest.js";
import { digestOfReads } from "../oci/digest-stream.js";
import { type TransferCounts, TransferStats } from "../registry/transfer-stats.js";
import type { BlobSource, FetchOptions } from "./blob-source.js";
import { checkRange } from "./range.js";
import { openRegularFile, readChunk } from "./regular-file.js";

/** Every read is a round trip to the thread pool, and waking a thread costs more than copying a MiB. */
const chunkBytes = 1 << 20;

export interface FileBlobOptions {
  /** What the file is supposed to be; computed from the whole file when not given, otherwise not checked. */
  readonly digest?: Digest;
  /** What its size must be; `mismatch` otherwise. */
  readonly sizeBytes?: number;
  readonly signal?: AbortSignal;
}

/** Opens a regular file as a blob. Throws `not-found`, `usage` (not a regular file), `mismatch` or `io`. */
export async function openFileBlob(path: string, options: FileBlobOptions = {}): Promise<FileBlobSource> {
  const file = await openRegularFile(path);
  try {
    const { size } = await file.stat();
    if (options.sizeBytes !== undefined && options.sizeBytes !== size) {
      throw new OcifsError("mismatch", `blob ${path}: ${size} bytes; its descriptor says ${options.sizeBytes}`);
    }
    const digest = options.digest ?? (await digestOfFile(file, size, path, options.signal));
    return new FileBlobSource(file, path, digest, size);
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A local file as a BlobSource; reads follow the file's bytes of the moment, so it must not change. */
export class FileBlobSource implements BlobSource {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly description: string;
  readonly rangesSupported = true;
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #stats = new TransferStats();
  #closed = false;

  /** Takes over the open file. */
  constructor(file: FileHandle, path: string, digest: Digest, sizeBytes: number) {
    this.#file = file;
    this.#path = path;
    this.digest = digest;
    this.sizeBytes = sizeBytes;
    this.description = `blob ${path}`;
  }

  stats(): TransferCounts {
    return this.#stats.counts();
  }

  get closed(): boolean {
    return this.#closed;
  }

  async *fetchRange(offset: number, length: number, options: FetchOptions = {}): AsyncIterable<Uint8Array> {
    checkRange(offset, length, this.sizeBytes, this.description);
    const end = offset + length;
    const memory = options.transientChunks === true ? Buffer.allocUnsafe(chunkBytes) : undefined;
    this.#stats.add("requests");
    for (let position = offset; position < end; ) {
      throwIfAborted(options.signal, this.description);
      if (this.#closed) throw new OcifsError("aborted", `${this.description}: it is closed`);
      const chunk = await readChunk(this.#file, position, Math.min(chunkBytes, end - position), this.#path, memory);
      position += chunk.length;
      this.#stats.add("bytes", chunk.length);
      yield chunk;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#file.close();
  }
}

async function digestOfFile(file: FileHandle, sizeBytes: number, path: string, signal?: AbortSignal): Promise<Digest> {
  // One is hashed while the next is read. New ones each time would pile up until a garbage collection.
  const memory = [Buffer.allocUnsafe(chunkBytes), Buffer.allocUnsafe(chunkBytes)] as const;
  let turn: 0 | 1 = 0;
  const { digest } = await digestOfReads("sha256", async (position) => {
    throwIfAborted(signal, `blob ${path}: digest`);
    const wanted = Math.min(chunkBytes, sizeBytes - position);
    turn = turn === 0 ? 1 : 0;
    return wanted === 0 ? new Uint8Array(0) : await readChunk(file, position, wanted, path, memory[turn]);
  });
  return digest;
}
