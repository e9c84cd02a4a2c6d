import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { ByteStringColumns } from "../native/tarindex.js";
import { ByteTable } from "./byte-arena.js";
import { xattrEntryBytes, xattrFilterSeed, xattrHeaderBytes } from "./format.js";
import { noXattrs } from "./inode-table.js";
import { xxh32 } from "./xxh32.js";

export interface Xattr {
  /** Full name, `user.foo`. */
  readonly name: Uint8Array;
  readonly value: Uint8Array;
}

/**
 * Name prefixes EROFS has a number for. Names with none of them are kept whole under number 0; Linux's EROFS does not show those.
 */
const prefixes = [
  { index: 2, prefix: "system.posix_acl_access", whole: true },
  { index: 3, prefix: "system.posix_acl_default", whole: true },
  { index: 1, prefix: "user.", whole: false },
  { index: 4, prefix: "trusted.", whole: false },
  { index: 6, prefix: "security.", whole: false },
].map(({ index, prefix, whole }) => ({ index, prefix: Buffer.from(prefix, "latin1"), whole }));

const noBytes = new Uint8Array(0);

function splitName(name: Uint8Array): { index: number; suffix: Uint8Array } {
  for (const { index, prefix, whole } of prefixes) {
    const matches = whole ? name.length === prefix.length : name.length > prefix.length;
    if (matches && prefix.every((byte, i) => name[i] === byte)) {
      return { index, suffix: name.subarray(prefix.length) };
    }
  }
  return { index: 0, suffix: name };
}

/** The bit of the name filter that stands for a name; a clear bit in the inode's filter means "may be there". */
function filterBit(index: number, suffix: Uint8Array): number {
  return 1 << (xxh32(suffix, (xattrFilterSeed + index) >>> 0) & 31);
}

function padded(sizeBytes: number): number {
  return (sizeBytes + 3) & ~3;
}

/**
 * Sets of extended attributes, each kept once in its on-disk form (the inline xattr area of an inode: header with name filter, then the
 * entries sorted by full name).
 */
export class XattrSets {
  readonly #table = new ByteTable();

  /** The number of this set, or `noXattrs` for an empty one. Names must differ. Throws `limit`; `where` goes into the message. */
  intern(xattrs: readonly Xattr[], where: { toString(): string }): number {
    if (xattrs.length === 0) return noXattrs;
    const sorted = xattrs
      .toSorted((a, b) => Buffer.compare(a.name, b.name))
      .map((x) => ({ ...splitName(x.name), value: x.value }));
    const entryBytes = (x: { suffix: Uint8Array; value: Uint8Array }) =>
      padded(xattrEntryBytes + x.suffix.length + x.value.length);
    const total = sorted.reduce((sum, x) => sum + entryBytes(x), xattrHeaderBytes);
    if (total > limits.xattrAreaBytes) {
      throw new OcifsError(
        "limit",
        `${where}: extended attributes of ${total} bytes, EROFS stores ${limits.xattrAreaBytes}`,
      );
    }
    const area = new Uint8Array(total);
    const view = new DataView(area.buffer);
    let filter = 0;
    let at = xattrHeaderBytes;
    for (const { index, suffix, value } of sorted) {
      if (suffix.length > limits.xattrNameBytes || value.length > limits.xattrValueBytes) {
        throw new OcifsError(
          "limit",
          `${where}: extended attribute of ${suffix.length} and ${value.length} bytes is too long`,
        );
      }
      view.setUint8(at, suffix.length);
      view.setUint8(at + 1, index);
      view.setUint16(at + 2, value.length, true);
      area.set(suffix, at + xattrEntryBytes);
      area.set(value, at + xattrEntryBytes + suffix.length);
      filter |= filterBit(index, suffix);
      at += entryBytes({ suffix, value });
    }
    view.setUint32(0, ~filter >>> 0, true);
    return this.#table.intern(area);
  }

  /** The areas under the sets' numbers; valid until the next `intern`. */
  columns(): ByteStringColumns {
    return this.#table.columns();
  }

  /** The set's area as it stands on disk; a view valid until the next `intern`. Empty for `noXattrs`. */
  area(id: number): Uint8Array {
    return id === noXattrs ? noBytes : this.#table.at(id);
  }

  /** The attributes of a set, sorted by name. */
  list(id: number): Xattr[] {
    const area = this.area(id);
    const xattrs: Xattr[] = [];
    for (let at = xattrHeaderBytes; at < area.length; ) {
      const nameBytes = area[at] ?? 0;
      const index = area[at + 1] ?? 0;
      const valueBytes = (area[at + 2] ?? 0) | ((area[at + 3] ?? 0) << 8);
      const suffix = area.subarray(at + xattrEntryBytes, at + xattrEntryBytes + nameBytes);
      const valueAt = at + xattrEntryBytes + nameBytes;
      const prefix = prefixes.find((p) => p.index === index)?.prefix ?? new Uint8Array(0);
      xattrs.push({
        name: new Uint8Array(Buffer.concat([prefix, suffix])),
        value: area.slice(valueAt, valueAt + valueBytes),
      });
      at += padded(xattrEntryBytes + nameBytes + valueBytes);
    }
    return xattrs;
  }
}
