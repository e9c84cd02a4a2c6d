import { constants } from "node:fs";
import { access, statfs } from "node:fs/promises";

/** Between two looks at a disk that could not be written. */
export const DISK_LOOK_MS = 30_000;

/** Room for the largest request: with less, the next write would fail again. */
const ENOUGH_BYTES = 8 << 20;

/** Looks now and then whether a directory can be written again that could not be, and tells so once. */
export class DiskWatch implements Disposable {
  readonly #directory: string;
  readonly #onWritable: () => void;
  readonly #lookMs: number;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(directory: string, onWritable: () => void, lookMs = DISK_LOOK_MS) {
    this.#directory = directory;
    this.#onWritable = onWritable;
    this.#lookMs = lookMs;
  }

  /** Call when a write has failed. */
  start(): void {
    if (this.#closed) return;
    this.#timer ??= setTimeout(() => void this.#look(), this.#lookMs);
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  async #look(): Promise<void> {
    const writable = await isWritable(this.#directory);
    this.#timer = undefined;
    if (this.#closed) return;
    if (writable) this.#onWritable();
    else this.start();
  }
}

async function isWritable(directory: string): Promise<boolean> {
  try {
    await access(directory, constants.W_OK);
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize >= ENOUGH_BYTES;
  } catch {
    // A directory that cannot be looked at cannot be written either; why was said when the write failed.
    return false;
  }
}
