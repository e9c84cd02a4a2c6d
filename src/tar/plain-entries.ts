import { plainColumns, type ScannedHeaders, scanTarHeaders } from "../native/tar.js";
import type { TarEntry, TarEntryType } from "./entry.js";
import { blockBytes } from "./header.js";
import { copyOf } from "./quote.js";

const maximumEntries = 1024;
const namesBytes = 256 << 10;

const types = ["file", "directory", "symlink", "hardlink"] as const satisfies readonly TarEntryType[];
export type PlainEntryType = (typeof types)[number];

/**
 * Entries whose one header says everything: no PAX or GNU headers, no sparse map, no number or name that is out of the ordinary. That is
 * nearly all of a tar, so they come as columns of numbers, many at a time. Valid until the next scan.
 */
export class PlainEntries {
  /** As native code gave them. */
  readonly scanned: ScannedHeaders = {
    numbers: new Float64Array(maximumEntries * plainColumns.count),
    names: new Uint8Array(namesBytes),
    place: new Float64Array(2),
  };
  #count = 0;
  #base = 0;

  /** Replaces the entries by those of the bytes from `at` on, at most `maximum`; `skip` bytes of content come first. */
  scan(bytes: Uint8Array, at: number, options: { skip: number; maximum: number; base: number }): void {
    this.#base = options.base;
    this.#count = scanTarHeaders(bytes, at, options.skip, Math.min(maximumEntries, options.maximum), this.scanned);
  }

  get count(): number {
    return this.#count;
  }

  /** Byte in the tar of the scanned bytes' first one. */
  get base(): number {
    return this.#base;
  }

  /** Byte of the scanned bytes where the scan ended. */
  get end(): number {
    return this.scanned.place[0] ?? 0;
  }

  /** Content and padding of the last entry (or the one before the scan) behind `end`. */
  get skipBytes(): number {
    return this.scanned.place[1] ?? 0;
  }

  /** Holds the names of all entries. */
  get names(): Uint8Array {
    return this.scanned.names;
  }

  type(entry: number): PlainEntryType {
    return types[this.#number(entry, plainColumns.type)] ?? "file";
  }

  mode(entry: number): number {
    return this.#number(entry, plainColumns.mode);
  }

  uid(entry: number): number {
    return this.#number(entry, plainColumns.uid);
  }

  gid(entry: number): number {
    return this.#number(entry, plainColumns.gid);
  }

  mtimeSeconds(entry: number): number {
    return this.#number(entry, plainColumns.mtimeSeconds);
  }

  sizeBytes(entry: number): number {
    return this.#number(entry, plainColumns.sizeBytes);
  }

  /** Where in `names` the path, its last name, and what comes behind begin. */
  pathStart(entry: number): number {
    return this.#number(entry, plainColumns.path);
  }

  nameStart(entry: number): number {
    return this.#number(entry, plainColumns.name);
  }

  pathEnd(entry: number): number {
    return this.#number(entry, plainColumns.pathEnd);
  }

  /** Whether the path up to its last name is the one of the entry before, which must be among these. */
  sharesDirectory(entry: number): boolean {
    return this.#number(entry, plainColumns.sharesDirectory) === 1;
  }

  /** A view. */
  path(entry: number): Uint8Array {
    return this.names.subarray(this.pathStart(entry), this.pathEnd(entry));
  }

  /** A view: of a symbolic link its target as stored, of a hard link normalized, else empty. */
  linkPath(entry: number): Uint8Array {
    return this.names.subarray(this.#number(entry, plainColumns.link), this.#number(entry, plainColumns.linkEnd));
  }

  /** Byte in the tar. */
  headerOffset(entry: number): number {
    return this.#base + this.#number(entry, plainColumns.headerOffset);
  }

  dataOffset(entry: number): number {
    return this.headerOffset(entry) + blockBytes;
  }

  /** One of them as an entry of its own, which stays valid. */
  entry(entry: number): TarEntry {
    return {
      type: this.type(entry),
      path: copyOf(this.path(entry)),
      linkPath: copyOf(this.linkPath(entry)),
      mode: this.mode(entry),
      uid: this.uid(entry),
      gid: this.gid(entry),
      mtimeSeconds: this.mtimeSeconds(entry),
      mtimeNanoseconds: 0,
      sizeBytes: this.sizeBytes(entry),
      deviceMajor: 0,
      deviceMinor: 0,
      xattrs: [],
      headerOffset: this.headerOffset(entry),
      dataOffset: this.dataOffset(entry),
    };
  }

  #number(entry: number, column: number): number {
    return this.scanned.numbers[entry * plainColumns.count + column] ?? 0;
  }
}
