import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { TarXattr } from "./entry.js";
import { type PaxTime, paxInteger, paxRecords, paxTime } from "./pax.js";
import { copyOf, type Where } from "./quote.js";
import { isXattrKey, xattrsOf } from "./xattr.js";

/** The other records (atime, uname, comment, …) say nothing that EROFS stores. */
const usedKeys = new Set([
  "path",
  "linkpath",
  "size",
  "uid",
  "gid",
  "mtime",
  "GNU.sparse.major",
  "GNU.sparse.minor",
  "GNU.sparse.name",
  "GNU.sparse.realsize",
  "GNU.sparse.size",
  "GNU.sparse.map",
]);
const sparseListKeys = new Set(["GNU.sparse.offset", "GNU.sparse.numbytes"]);

/**
 * What PAX and GNU headers say about the entry that follows them, with the archive's global PAX records beneath.
 * An empty value takes back what the header or a global record said (POSIX), except for extended attributes, which may be empty.
 * `hdrcharset` is not looked at: names are bytes in any charset.
 */
export class Extensions {
  readonly #global = new Map<string, Buffer>();
  #globalBytes = 0;
  #local = new Map<string, Buffer>();
  /** The repeated GNU.sparse.offset/numbytes records of PAX sparse format 0.0, in order. */
  #sparseList: string[] = [];
  #longName: Uint8Array | undefined;
  #longLink: Uint8Array | undefined;

  /** True while a header that belongs to the next entry waits for it. */
  get pending(): boolean {
    return this.#local.size > 0 || this.#longName !== undefined || this.#longLink !== undefined;
  }

  /** True while nothing here changes what the next header says. */
  get neutral(): boolean {
    return !this.pending && this.#global.size === 0 && this.#sparseList.length === 0;
  }

  /** Keeps views of the payload. */
  setLocal(payload: Buffer, where: Where): void {
    this.#local = new Map();
    this.#sparseList = [];
    for (const { key, value } of paxRecords(payload, where)) {
      if (sparseListKeys.has(key)) this.#sparseList.push(value.toString("latin1"));
      if (usedKeys.has(key) || isXattrKey(key)) this.#local.set(key, value);
    }
  }

  addGlobal(payload: Buffer, where: Where): void {
    for (const { key, value } of paxRecords(payload, where)) {
      if (!usedKeys.has(key) && !isXattrKey(key)) continue;
      this.#globalBytes += key.length + value.length - (this.#global.get(key)?.length ?? -key.length);
      if (this.#globalBytes > limits.paxBytes) {
        throw new OcifsError("limit", `${where}: global PAX records add up to more than ${limits.paxBytes} bytes`);
      }
      this.#global.set(key, Buffer.from(value));
    }
  }

  /** GNU long names end at their first NUL. */
  setLongName(payload: Uint8Array): void {
    this.#longName = cutAtNul(payload);
  }

  setLongLink(payload: Uint8Array): void {
    this.#longLink = cutAtNul(payload);
  }

  /** Forgets what applied to one entry; global records stay. */
  clear(): void {
    if (this.#local.size > 0) this.#local = new Map();
    if (this.#sparseList.length > 0) this.#sparseList = [];
    this.#longName = undefined;
    this.#longLink = undefined;
  }

  /** GNU tar puts a placeholder in `path` of sparse entries and the true name in GNU.sparse.name. */
  path(): Uint8Array | undefined {
    return this.#longName ?? this.#value("GNU.sparse.name") ?? this.#value("path");
  }

  linkPath(): Uint8Array | undefined {
    return this.#longLink ?? this.#value("linkpath");
  }

  integer(key: string, where: Where): number | undefined {
    const value = this.#value(key);
    return value === undefined ? undefined : paxInteger(value, key, where);
  }

  time(key: string, where: Where): PaxTime | undefined {
    const value = this.#value(key);
    return value === undefined ? undefined : paxTime(value, key, where);
  }

  text(key: string): string | undefined {
    const value = this.#value(key);
    return value === undefined ? undefined : value.toString("latin1");
  }

  sparseList(): readonly string[] {
    return this.#sparseList;
  }

  xattrs(where: Where): readonly TarXattr[] {
    if (this.#local.size === 0 && this.#global.size === 0) return [];
    const records: [string, Buffer][] = [];
    for (const records_ of [this.#global, this.#local]) {
      for (const [key, value] of records_) if (isXattrKey(key)) records.push([key, value]);
    }
    return records.length === 0 ? [] : xattrsOf(records, where);
  }

  #value(key: string): Buffer | undefined {
    const value = this.#local.get(key) ?? this.#global.get(key);
    return value === undefined || value.length === 0 ? undefined : value;
  }
}

function cutAtNul(payload: Uint8Array): Uint8Array {
  const nul = payload.indexOf(0);
  return copyOf(payload, 0, nul === -1 ? payload.length : nul);
}
