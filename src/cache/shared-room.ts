import { treeUsage } from "../native/sparse.js";
import { giveUpForeignCompressed, giveUpOwn, giveUpUnused } from "./evict.js";
import { Reservations } from "./reservations.js";
import type { CacheHolder, CacheRoom, Reservation } from "./room.js";

const BLOCK_BYTES = 4096;
/**
 * What writing costs beside the bytes: blocks at both ends that are only partly written, and blocks of the file's extent tree
 * (a write adds one, and splits at most two more).
 */
const OVERHEAD_BYTES = 5 * BLOCK_BYTES;

/** Reserved ahead of what is asked for, so that not every request scans the cache; less where the limit is small. */
const LUMP_MAX_BYTES = 8 << 20;
const LUMP_MIN_BYTES = 128 << 10;
const LUMP_SHARE = 64;

/** Kept free for what asks nobody: directories, marks, states, names. */
const MARGIN_MAX_BYTES = 4 << 20;
const MARGIN_MIN_BYTES = 64 << 10;
const MARGIN_SHARE = 32;

/** Evicted beyond what is short, so that not every request evicts. */
const AHEAD_MAX_BYTES = 64 << 20;
const AHEAD_SHARE = 16;

/** Rounds of eviction for one request: another process may take what one of them freed. */
const MAX_ROUNDS = 4;

/** What was reserved ahead goes back when nobody has asked for this long. */
const IDLE_MS = 1_000;

/**
 * The room of one cache directory, shared with all processes that have it open. The smallest limit that any of them was given
 * holds for all: each counts what is on disk and what all have reserved before it reserves more. Reservations are read before the
 * files are, and a reservation ends after its bytes are in their file, so what is being written counts once or twice, never not.
 */
export class SharedRoom implements CacheRoom, AsyncDisposable {
  readonly #path: string;
  readonly #reservations: Reservations;
  readonly #holders = new Set<CacheHolder>();
  #limitBytes: number | undefined;
  /** Reserved with the others, and granted to nobody here yet. */
  #aheadBytes = 0;
  #grantedBytes = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #idle: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(path: string, reservations: Reservations, limitBytes: number | undefined) {
    this.#path = path;
    this.#reservations = reservations;
    this.#limitBytes = limitBytes;
  }

  /** `path` is the cache directory, `reservationsPath` a file in it. Fails as Reservations.open does, or with `io`. */
  static async open(path: string, reservationsPath: string, limitBytes: number | undefined): Promise<SharedRoom> {
    const room = new SharedRoom(path, await Reservations.open(reservationsPath, limitBytes), limitBytes);
    // A limit that is smaller than what is there holds from now on.
    if (limitBytes !== undefined) (await room.reserve(0))?.[Symbol.dispose]();
    return room;
  }

  get stepBytes(): number {
    return 4 * lumpOf(this.#limitBytes);
  }

  async reserve(bytes: number): Promise<Reservation | undefined> {
    const cost = Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES + OVERHEAD_BYTES;
    if (this.#closed) return undefined;
    if (this.#aheadBytes >= cost) return this.#grant(cost);
    const granted = this.#turn.then(() => this.#refill(cost));
    this.#turn = granted.catch(() => undefined);
    return await granted;
  }

  async makeRoom(bytes: number): Promise<boolean> {
    for (let round = 0; round < MAX_ROUNDS && !this.#closed; round++) {
      const free = await this.#reservations.locked(async () => (await this.#free()).bytes + this.#aheadBytes);
      if (free === undefined) return false;
      if (free >= bytes) return true;
      if ((await giveUpUnused(this.#path, bytes - free)) === 0) return false;
    }
    return false;
  }

  register(holder: CacheHolder): Disposable {
    this.#holders.add(holder);
    return { [Symbol.dispose]: () => void this.#holders.delete(holder) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#idle);
    await this.#turn;
    await this.#reservations[Symbol.asyncDispose]();
  }

  async #refill(cost: number): Promise<Reservation | undefined> {
    for (let round = 0; round < MAX_ROUNDS && !this.#closed; round++) {
      if (this.#aheadBytes >= cost) return this.#grant(cost);
      const taken = await this.#reservations.locked(() => this.#tryTake(cost));
      if (typeof taken !== "number") return taken;
      // Without the lock: others may go on meanwhile, and take what this frees.
      const ahead = Math.min(AHEAD_MAX_BYTES, (this.#limitBytes ?? 0) / AHEAD_SHARE);
      if ((await this.#evict(taken + ahead)) === 0) return undefined;
    }
    return undefined;
  }

  /** REQUIRES the lock. Takes what is wanted and some more; resolves to what was granted, or to how much there is too little. */
  async #tryTake(cost: number): Promise<Reservation | number> {
    const { bytes: free, limitBytes } = await this.#free();
    const wanted = cost - this.#aheadBytes;
    if (wanted > 0) {
      if (free < wanted) return wanted - free;
      this.#aheadBytes += Math.floor(Math.min(free, Math.max(wanted, lumpOf(limitBytes))));
      this.#publish();
    }
    // In the same step: what is ahead is anybody's.
    return this.#grant(cost);
  }

  /** REQUIRES the lock. What may still be reserved. */
  async #free(): Promise<{ readonly bytes: number; readonly limitBytes: number | undefined }> {
    const { limitBytes, reservedBytes } = this.#reservations.read();
    this.#limitBytes = limitBytes;
    if (limitBytes === undefined) return { bytes: Number.POSITIVE_INFINITY, limitBytes };
    // In this order: what is written in between has been read as reserved.
    const bytes = limitBytes - marginOf(limitBytes) - reservedBytes - (await treeUsage(this.#path));
    return { bytes, limitBytes };
  }

  async #evict(bytes: number): Promise<number> {
    let freed = await giveUpUnused(this.#path, bytes);
    const holders = [...this.#holders];
    for (const step of [
      async (left: number) => {
        let sum = 0;
        for (const holder of holders) if (sum < left) sum += await holder.giveUpCompressed(left - sum);
        return sum;
      },
      (left: number) => giveUpForeignCompressed(this.#path, left),
      (left: number) => giveUpOwn(holders, left),
    ]) {
      if (freed < bytes) freed += await step(bytes - freed);
    }
    return freed;
  }

  #grant(cost: number): Reservation {
    this.#aheadBytes -= cost;
    this.#grantedBytes += cost;
    clearTimeout(this.#idle);
    let open = true;
    return {
      sizeBytes: cost - OVERHEAD_BYTES,
      [Symbol.dispose]: () => {
        if (!open) return;
        open = false;
        this.#grantedBytes -= cost;
        this.#publish();
        if (this.#grantedBytes === 0) this.#idle = setTimeout(() => this.#goIdle(), IDLE_MS).unref();
      },
    };
  }

  #goIdle(): void {
    if (this.#grantedBytes > 0) return;
    this.#aheadBytes = 0;
    this.#publish();
  }

  #publish(): void {
    if (!this.#closed) this.#reservations.setReserved(this.#aheadBytes + this.#grantedBytes);
  }
}

function lumpOf(limitBytes: number | undefined): number {
  return share(limitBytes, LUMP_SHARE, LUMP_MIN_BYTES, LUMP_MAX_BYTES);
}

function marginOf(limitBytes: number): number {
  return share(limitBytes, MARGIN_SHARE, MARGIN_MIN_BYTES, MARGIN_MAX_BYTES);
}

function share(limitBytes: number | undefined, part: number, min: number, max: number): number {
  return Math.floor(Math.min(max, Math.max(min, (limitBytes ?? Number.POSITIVE_INFINITY) / part)));
}
