import { OcifsError } from "../base/errors.js";
import { quoteBytes } from "./quote.js";

/** What the last component of a path means in the OCI layer format (AUFS's names). */
export type Whiteout =
  | { readonly kind: "none" }
  /** `.wh.NAME`: NAME of the layers below is gone. */
  | { readonly kind: "remove"; readonly name: Uint8Array }
  /** `.wh..wh..opq`: nothing of the directory in the layers below is seen. */
  | { readonly kind: "opaque" }
  /** `.wh..wh.…`: AUFS's own bookkeeping, no content of the layer. */
  | { readonly kind: "aufs" };

const prefix = Buffer.from(".wh.", "latin1");
const aufsPrefix = Buffer.from(".wh..wh.", "latin1");
const opaqueName = Buffer.from(".wh..wh..opq", "latin1");
const none: Whiteout = { kind: "none" };

/** Reads one name. Throws `corrupt` for a whiteout of nothing, `.` or `..`. */
export function whiteoutOf(name: Uint8Array): Whiteout {
  if (!startsWith(name, prefix)) return none;
  if (startsWith(name, aufsPrefix))
    return { kind: name.length === opaqueName.length && startsWith(name, opaqueName) ? "opaque" : "aufs" };
  const removed = name.subarray(prefix.length);
  const text = Buffer.from(removed).toString("latin1");
  if (text === "" || text === "." || text === "..") {
    throw new OcifsError("corrupt", `tar: whiteout ${quoteBytes(name)} names no file to remove`);
  }
  return { kind: "remove", name: removed };
}

function startsWith(bytes: Uint8Array, start: Uint8Array): boolean {
  if (bytes.length < start.length) return false;
  for (let i = 0; i < start.length; i++) if (bytes[i] !== start[i]) return false;
  return true;
}
