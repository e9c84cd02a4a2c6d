import { randomBytes } from "node:crypto";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { ByteStringColumns } from "../native/tarindex.js";

/**
 * A multiplicative hash over bytes [start, end), continuing from `hash`. The shift after each byte lets the seed reach all bits,
 * so that names made to collide under one seed do not under another.
 */
export function hashBytes(bytes: Uint8Array, start: number, end: number, hash: number): number {
  let h = hash;
  for (let i = start; i < end; i++) {
    h = Math.imul(h ^ (bytes[i] ?? 0), 0x01000193);
    h ^= h >>> 13;
  }
  h = Math.imul(h, 0x85ebca6b);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Differs from process to process, since names come from outside. Nothing that is written depends on it. */
export const hashSeed = randomBytes(4).readUInt32LE();

/** Byte strings put one after another in one growing buffer, so that many small names cost no object each. */
export class ByteArena {
  #bytes = new Uint8Array(4096);
  #used = 0;

  /** All bytes; valid until the next `append`. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** Copies bytes [start, end) in and gives the offset they are kept at. Throws `limit`. */
  append(bytes: Uint8Array, start: number, end: number): number {
    const offset = this.#used;
    const need = offset + (end - start);
    if (need > limits.treeBytes) {
      throw new OcifsError("limit", `file tree: names and attributes need more than ${limits.treeBytes} bytes`);
    }
    if (need > this.#bytes.length) {
      // Outgrown buffers stay until the next garbage collection; what is not yet used of a large one takes no memory.
      const grown = new Uint8Array(Math.max(need, Math.min(this.#bytes.length * 4, limits.treeBytes)));
      grown.set(this.#bytes.subarray(0, this.#used));
      this.#bytes = grown;
    }
    for (let i = start; i < end; i++) this.#bytes[offset + i - start] = bytes[i] ?? 0;
    this.#used = need;
    return offset;
  }

  /** Bytes in use. To be set only by who put bytes into `bytes`. */
  get used(): number {
    return this.#used;
  }

  set used(used: number) {
    this.#used = used;
  }

  /** A view, valid until the next `append`. */
  view(offset: number, length: number): Uint8Array {
    return this.#bytes.subarray(offset, offset + length);
  }
}

/** Byte strings kept once each, under small numbers counted from 0. Layers repeat a few xattr sets and link targets many times. */
export class ByteTable {
  readonly #arena = new ByteArena();
  #offsets = new Float64Array(16);
  #lengths = new Uint32Array(16);
  #slots = new Int32Array(64).fill(-1);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** All of them; valid until the next `intern`. */
  columns(): ByteStringColumns & { readonly slots: Int32Array } {
    return {
      count: this.#count,
      bytes: this.#arena.bytes,
      offsets: this.#offsets,
      lengths: this.#lengths,
      slots: this.#slots,
    };
  }

  get usedBytes(): number {
    return this.#arena.used;
  }

  /** After native code has added to the columns. */
  setUsed(count: number, bytes: number): void {
    this.#count = count;
    this.#arena.used = bytes;
  }

  /** A view, valid until the next `intern`. */
  at(id: number): Uint8Array {
    return this.#arena.view(this.#offsets[id] ?? 0, this.#lengths[id] ?? 0);
  }

  /** The number of these bytes; they are copied the first time. Throws `limit`. */
  intern(bytes: Uint8Array): number {
    let slot = this.#slotOf(bytes);
    const found = this.#slots[slot] ?? -1;
    if (found >= 0) return found;
    const id = this.#count;
    if (id === this.#offsets.length) this.#grow();
    this.#offsets[id] = this.#arena.append(bytes, 0, bytes.length);
    this.#lengths[id] = bytes.length;
    this.#count++;
    slot = this.#slotOf(bytes);
    this.#slots[slot] = id;
    return id;
  }

  #slotOf(bytes: Uint8Array): number {
    const mask = this.#slots.length - 1;
    let slot = hashBytes(bytes, 0, bytes.length, hashSeed) & mask;
    for (;;) {
      const id = this.#slots[slot] ?? -1;
      if (id < 0 || Buffer.compare(this.at(id), bytes) === 0) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #grow(): void {
    const size = this.#offsets.length * 2;
    const offsets = new Float64Array(size);
    offsets.set(this.#offsets);
    const lengths = new Uint32Array(size);
    lengths.set(this.#lengths);
    this.#offsets = offsets;
    this.#lengths = lengths;
    this.#slots = new Int32Array(size * 4).fill(-1);
    for (let id = 0; id < this.#count; id++) this.#slots[this.#slotOf(this.at(id))] = id;
  }
}
