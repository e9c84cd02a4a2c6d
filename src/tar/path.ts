import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { quoteBytes, type Where } from "./quote.js";

const slash = 0x2f;
const dot = 0x2e;

/**
 * Brings a path of a tar entry into the one form used inside ocifs: components joined by single slashes, no leading or
 * trailing slash, no `.`; the root is the empty path. Bytes are kept as they are, in a view of `raw` if they stand together
 * there, as they do in nearly every tar; else in a copy.
 * Throws `corrupt` for `..` (it would lead out of the layer) and NUL, `limit` for lengths Linux does not allow.
 */
export function normalizePath(raw: Uint8Array, where: Where): Uint8Array {
  if (hasNul(raw)) throw new OcifsError("corrupt", `${where}: path ${quoteBytes(raw)} contains a NUL byte`);
  let first = 0;
  let last = 0;
  let length = 0;
  let depth = 0;
  for (let at = 0; at < raw.length; ) {
    const end = componentEnd(raw, at);
    const size = end - at;
    if (size === 2 && raw[at] === dot && raw[at + 1] === dot) {
      throw new OcifsError("corrupt", `${where}: path ${quoteBytes(raw)} contains "..", which may leave the layer`);
    }
    if (size > limits.nameBytes) {
      throw new OcifsError(
        "limit",
        `${where}: path ${quoteBytes(raw)} has a name longer than ${limits.nameBytes} bytes`,
      );
    }
    if (isName(raw, at, size)) {
      if (depth === 0) first = at;
      length += depth === 0 ? size : size + 1;
      last = end;
      depth++;
    }
    at = end + 1;
  }
  if (length > limits.pathBytes) {
    throw new OcifsError("limit", `${where}: path ${quoteBytes(raw)} is longer than ${limits.pathBytes} bytes`);
  }
  if (depth > limits.pathDepth) {
    throw new OcifsError("limit", `${where}: path ${quoteBytes(raw)} is deeper than ${limits.pathDepth} directories`);
  }
  if (length === raw.length) return raw;
  return last - first === length ? raw.subarray(first, last) : joinNames(raw, length);
}

/** The names of a path with single slashes between them, `length` bytes together. */
function joinNames(raw: Uint8Array, length: number): Uint8Array {
  const out = Buffer.allocUnsafe(length);
  let used = 0;
  for (let at = 0; at < raw.length; ) {
    const end = componentEnd(raw, at);
    if (isName(raw, at, end - at)) {
      if (used > 0) out[used++] = slash;
      for (let i = at; i < end; i++) out[used++] = raw[i] ?? 0;
    }
    at = end + 1;
  }
  return out;
}

/** Neither empty nor `.`. */
function isName(raw: Uint8Array, at: number, size: number): boolean {
  return size > 1 || (size === 1 && raw[at] !== dot);
}

// Loops, since paths are short: a Buffer's own search leaves JavaScript, which costs more than it saves.

function componentEnd(raw: Uint8Array, start: number): number {
  let end = start;
  while (end < raw.length && raw[end] !== slash) end++;
  return end;
}

function hasNul(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] === 0) return true;
  return false;
}

/** Where the last name of a normalized path begins: behind its last slash. */
export function lastNameStart(path: Uint8Array): number {
  let at = path.length;
  while (at > 0 && path[at - 1] !== slash) at--;
  return at;
}

/** Checks a symbolic link's target, which is kept byte for byte. Throws `corrupt` or `limit`. */
export function checkSymlinkTarget(target: Uint8Array, where: Where): Uint8Array {
  if (target.length === 0) throw new OcifsError("corrupt", `${where}: symbolic link without a target`);
  if (hasNul(target)) {
    throw new OcifsError("corrupt", `${where}: symbolic link target ${quoteBytes(target)} contains a NUL byte`);
  }
  if (target.length > limits.pathBytes) {
    throw new OcifsError("limit", `${where}: symbolic link target is longer than ${limits.pathBytes} bytes`);
  }
  return target;
}

/** A trailing slash says "directory" in headers that have no typeflag for it. */
export function endsWithSlash(raw: Uint8Array): boolean {
  return raw.length > 0 && raw[raw.length - 1] === slash;
}
