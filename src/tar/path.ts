import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { quoteBytes, type Where } from "./quote.js";

const slash = 0x2f;
const dot = 0x2e;

/**
 * Brings a path of a tar entry into the one form used inside ocifs: components joined by single slashes, no leading or
 * trailing slash, no `.`; the root is the empty path. Bytes are kept as they are.
 * Throws `corrupt` for `..` (it would lead out of the layer) and NUL, `limit` for lengths Linux does not allow.
 */
export function normalizePath(raw: Uint8Array, where: Where): Uint8Array {
  if (raw.includes(0)) throw new OcifsError("corrupt", `${where}: path ${quoteBytes(raw)} contains a NUL byte`);
  const out = Buffer.allocUnsafe(raw.length);
  let length = 0;
  let depth = 0;
  for (let at = 0; at < raw.length; ) {
    let end = raw.indexOf(slash, at);
    if (end === -1) end = raw.length;
    const size = end - at;
    const isDot = size === 1 && raw[at] === dot;
    if (size === 2 && raw[at] === dot && raw[at + 1] === dot) {
      throw new OcifsError("corrupt", `${where}: path ${quoteBytes(raw)} contains "..", which may leave the layer`);
    }
    if (size > limits.nameBytes) {
      throw new OcifsError(
        "limit",
        `${where}: path ${quoteBytes(raw)} has a name longer than ${limits.nameBytes} bytes`,
      );
    }
    if (size > 0 && !isDot) {
      if (length > 0) out[length++] = slash;
      for (let i = at; i < end; i++) out[length++] = raw[i] ?? 0;
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
  return out.subarray(0, length);
}

/** Checks a symbolic link's target, which is kept byte for byte. Throws `corrupt` or `limit`. */
export function checkSymlinkTarget(target: Uint8Array, where: Where): Uint8Array {
  if (target.length === 0) throw new OcifsError("corrupt", `${where}: symbolic link without a target`);
  if (target.includes(0)) {
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
