import { fstatSync, ftruncateSync, readSync, writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { tryLock, unlock } from "../native/sparse.js";
import { closeFd, openFd } from "./raw-file.js";

const MAGIC = "OCIFSRES";
const VERSION = 1;
const HEADER_BYTES = 64;
const SLOT_BYTES = 16;
const FILE_BYTES = HEADER_BYTES + SLOT_BYTES * limits.cacheProcesses;

/** Between two tries for the lock of the whole file, which is held for one scan of the cache. */
const LOCK_POLL_MS = 2;
/** A holder that keeps it longer is stopped or stuck, and reads must go on. */
const LOCK_WAIT_MS = 5_000;

/** What the processes that use a cache have said of it. */
export interface CacheClaims {
  /** The smallest limit of any of them; undefined when none has one. */
  readonly limitBytes: number | undefined;
  /** Reserved by all of them together. */
  readonly reservedBytes: number;
}

/**
 * The file in which the processes that share a cache say what limit each was given and how much it may still write. Each has a
 * slot, held by a lock that goes with the process, so a dead one's slot is free. Layout: docs/FORMATS.md.
 */
export class Reservations implements AsyncDisposable {
  readonly #fd: number;
  readonly #slot: number;
  readonly #limitBytes: number | undefined;
  #reservedBytes = 0;

  private constructor(fd: number, slot: number, limitBytes: number | undefined) {
    this.#fd = fd;
    this.#slot = slot;
    this.#limitBytes = limitBytes;
    this.#write();
  }

  /** Takes a slot. `busy` when the file is locked for too long, `limit` when all slots are taken, `corrupt`. */
  static async open(path: string, limitBytes: number | undefined): Promise<Reservations> {
    const fd = await openFd(path, "create");
    try {
      if (!(await lockFile(fd))) throw new OcifsError("busy", `${path}: another process keeps it locked; end that one`);
      try {
        checkHeader(fd, path);
        for (let slot = 0; slot < limits.cacheProcesses; slot++) {
          if (tryLockSlot(fd, slot)) return new Reservations(fd, slot, limitBytes);
        }
      } finally {
        unlock(fd, 0, 1);
      }
      throw new OcifsError("limit", `${path}: ${limits.cacheProcesses} processes use this cache; give it fewer`);
    } catch (error) {
      await closeFd(fd);
      throw error;
    }
  }

  /** Keeps all others from reserving while `use` runs. Undefined when the lock cannot be had. */
  async locked<T>(use: () => Promise<T>): Promise<T | undefined> {
    if (!(await lockFile(this.#fd))) return undefined;
    try {
      return await use();
    } finally {
      unlock(this.#fd, 0, 1);
    }
  }

  /** REQUIRES the lock for more; less may be said at any time, since an old figure only leaves less room. */
  setReserved(bytes: number): void {
    this.#reservedBytes = bytes;
    this.#write();
  }

  /** REQUIRES the lock. Clears the slots of dead processes. */
  read(): CacheClaims {
    const bytes = Buffer.alloc(FILE_BYTES);
    readSync(this.#fd, bytes, 0, FILE_BYTES, 0);
    const given: number[] = this.#limitBytes === undefined ? [] : [this.#limitBytes];
    let reservedBytes = this.#reservedBytes;
    for (let slot = 0; slot < limits.cacheProcesses; slot++) {
      const at = slotOffset(slot);
      const limit = Number(bytes.readBigUInt64LE(at));
      const reserved = Number(bytes.readBigUInt64LE(at + 8));
      if (slot === this.#slot || (limit === 0 && reserved === 0)) continue;
      if (tryLockSlot(this.#fd, slot)) {
        writeSync(this.#fd, Buffer.alloc(SLOT_BYTES), 0, SLOT_BYTES, at);
        unlock(this.#fd, at, at + 1);
        continue;
      }
      if (limit > 0) given.push(limit);
      reservedBytes += reserved;
    }
    return { limitBytes: given.length === 0 ? undefined : Math.min(...given), reservedBytes };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The locks go with the descriptor, and without them what the slot says counts for nothing.
    await closeFd(this.#fd);
  }

  #write(): void {
    const bytes = Buffer.alloc(SLOT_BYTES);
    bytes.writeBigUInt64LE(BigInt(this.#limitBytes ?? 0), 0);
    bytes.writeBigUInt64LE(BigInt(this.#reservedBytes), 8);
    writeSync(this.#fd, bytes, 0, SLOT_BYTES, slotOffset(this.#slot));
  }
}

function slotOffset(slot: number): number {
  return HEADER_BYTES + SLOT_BYTES * slot;
}

function tryLockSlot(fd: number, slot: number): boolean {
  return tryLock(fd, slotOffset(slot), slotOffset(slot) + 1, "exclusive");
}

async function lockFile(fd: number): Promise<boolean> {
  for (const until = performance.now() + LOCK_WAIT_MS; ; ) {
    if (tryLock(fd, 0, 1, "exclusive")) return true;
    if (performance.now() > until) return false;
    await delay(LOCK_POLL_MS);
  }
}

/** REQUIRES the lock. Writes the header of a new file. */
function checkHeader(fd: number, path: string): void {
  const want = Buffer.alloc(HEADER_BYTES);
  want.write(MAGIC, 0, "latin1");
  want.writeUInt32LE(VERSION, 8);
  want.writeUInt32LE(limits.cacheProcesses, 12);
  const got = Buffer.alloc(HEADER_BYTES);
  const length = readSync(fd, got, 0, HEADER_BYTES, 0);
  // A creator that died between the two steps has left zeros.
  if (length === 0 || got.every((byte) => byte === 0)) {
    ftruncateSync(fd, FILE_BYTES);
    writeSync(fd, want, 0, HEADER_BYTES, 0);
  } else if (!got.equals(want) || fstatSync(fd).size !== FILE_BYTES) {
    throw new OcifsError(
      "corrupt",
      `${path}: not a file of reservations of this version; end all mounts and remove it`,
    );
  }
}
