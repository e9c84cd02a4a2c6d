import { OcifsError } from "../base/errors.js";
import type { BlobSource } from "../blob/blob-source.js";
import type { CacheRoom, Reservation } from "./room.js";

/** Room in the cache for one long write, reserved in steps as it goes on. */
export class WriteBudget implements Disposable {
  readonly #room: CacheRoom;
  #reservation: Reservation | undefined;
  #leftBytes = 0;

  constructor(room: CacheRoom) {
    this.#room = room;
  }

  /** True when `bytes` more may be written, of `expectedBytes` that are still to come. */
  async spend(bytes: number, expectedBytes: number): Promise<boolean> {
    if (this.#leftBytes < bytes) {
      // What was spent is in the file by now, save a part of a block that the next reservation has room for.
      this[Symbol.dispose]();
      const wanted = Math.max(bytes, Math.min(expectedBytes, this.#room.stepBytes));
      this.#reservation = (await this.#room.reserve(wanted)) ?? (await this.#room.reserve(bytes));
      if (!this.#reservation) return false;
      this.#leftBytes = this.#reservation.sizeBytes;
    }
    this.#leftBytes -= bytes;
    return true;
  }

  [Symbol.dispose](): void {
    this.#reservation?.[Symbol.dispose]();
    this.#reservation = undefined;
    this.#leftBytes = 0;
  }
}

/** For who cannot do without the disk. */
export function noRoom(source: BlobSource): OcifsError {
  return new OcifsError(
    "no-space",
    `${source.description}: the cache's limit leaves no room for it; raise cachesize or end other mounts`,
  );
}
