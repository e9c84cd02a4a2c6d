import { type FileHandle, open } from "node:fs/promises";
import { messageOf, OcifsError, throwIfAborted } from "../base/errors.js";
import type { LayerDevice } from "./layer-device.js";

export interface HybridSourceOptions {
  /** The tarindex file. */
  readonly indexPath: string;
  /** The layer's uncompressed tar; stays the caller's, and is not closed. */
  readonly device: LayerDevice;
  /** The byte at which the index says that the device begins: its slot's `uniaddr` times the block size. */
  readonly uniaddrBytes: number;
}

/**
 * The flat address range of one layer, as the kernel's EROFS wants it without `device=`: the bytes of the tarindex file,
 * then those of the layer's tar. Reads may cross the border.
 */
export class HybridSource implements AsyncDisposable {
  readonly sizeBytes: number;
  readonly #index: FileHandle;
  readonly #indexBytes: number;
  readonly #device: LayerDevice;

  private constructor(index: FileHandle, indexBytes: number, device: LayerDevice) {
    this.#index = index;
    this.#indexBytes = indexBytes;
    this.#device = device;
    this.sizeBytes = indexBytes + device.sizeBytes;
  }

  /** Throws `mismatch` when the file's size is not where the device begins, `io` when it cannot be opened. */
  static async open({ indexPath, device, uniaddrBytes }: HybridSourceOptions): Promise<HybridSource> {
    const index = await open(indexPath, "r").catch((cause: unknown) => {
      throw new OcifsError("io", `tarindex ${indexPath}: cannot open: ${messageOf(cause)}`, { cause });
    });
    try {
      const { size } = await index.stat();
      if (size !== uniaddrBytes) {
        throw new OcifsError(
          "mismatch",
          `tarindex ${indexPath}: ${size} bytes, but it places the layer at byte ${uniaddrBytes}; the file is truncated or not a tarindex alone`,
        );
      }
      return new HybridSource(index, size, device);
    } catch (error) {
      await index.close();
      throw error;
    }
  }

  /** Up to `length` bytes at `offset`; shorter only at the end of the range, empty at or past it. */
  async read(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    for (const [name, value] of Object.entries({ offset, length })) {
      if (!Number.isSafeInteger(value) || value < 0) {
        throw new OcifsError("usage", `hybrid source: ${name} is ${value}, want a non-negative integer`);
      }
    }
    throwIfAborted(signal, "read of the hybrid source");
    const end = Math.min(offset + length, this.sizeBytes);
    if (offset >= end) return new Uint8Array(0);
    if (offset >= this.#indexBytes) return this.#readDevice(offset - this.#indexBytes, end - offset, signal);
    if (end <= this.#indexBytes) return this.#readIndex(offset, end - offset);
    const [head, tail] = await Promise.all([
      this.#readIndex(offset, this.#indexBytes - offset),
      this.#readDevice(0, end - this.#indexBytes, signal),
    ]);
    const joined = new Uint8Array(head.length + tail.length);
    joined.set(head);
    joined.set(tail, head.length);
    return joined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#index.close();
  }

  async #readIndex(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const { bytesRead } = await this.#index
        .read(bytes, done, length - done, offset + done)
        .catch((cause: unknown) => {
          throw new OcifsError("io", `tarindex: cannot read ${length} bytes at ${offset}: ${messageOf(cause)}`, {
            cause,
          });
        });
      if (bytesRead === 0) {
        throw new OcifsError(
          "mismatch",
          `tarindex: file ends at byte ${offset + done}, it had ${this.#indexBytes} bytes`,
        );
      }
      done += bytesRead;
    }
    return bytes;
  }

  async #readDevice(offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    const bytes = await this.#device.read(offset, length, signal);
    if (bytes.length !== length) {
      throw new OcifsError(
        "mismatch",
        `layer device: ${bytes.length} of ${length} bytes at ${offset}, before its end at ${this.#device.sizeBytes}`,
      );
    }
    return bytes;
  }
}
