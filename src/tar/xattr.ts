import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { TarXattr } from "./entry.js";
import type { Where } from "./quote.js";

/** star's keyword, used by GNU tar and every container tool: the value is raw bytes. */
const schilyPrefix = "SCHILY.xattr.";
/** libarchive's: the name is URL-encoded, the value base64. */
const libarchivePrefix = "LIBARCHIVE.xattr.";

/** True for PAX keys that carry an extended attribute. */
export function isXattrKey(key: string): boolean {
  return key.startsWith(schilyPrefix) || key.startsWith(libarchivePrefix);
}

/**
 * The extended attributes among PAX records, later ones replacing earlier ones of the same name. Where an attribute is stored both ways
 * (bsdtar does that), star's raw bytes count. Throws `corrupt` or `limit`.
 */
export function xattrsOf(records: Iterable<readonly [string, Uint8Array]>, where: Where): TarXattr[] {
  const found = new Map<string, { value: Uint8Array; raw: boolean }>();
  for (const [key, value] of records) {
    if (key.startsWith(schilyPrefix)) {
      found.set(key.slice(schilyPrefix.length), { value, raw: true });
    } else if (key.startsWith(libarchivePrefix)) {
      const name = urlDecoded(key.slice(libarchivePrefix.length));
      if (found.get(name)?.raw !== true) found.set(name, { value: base64Decoded(value, name, where), raw: false });
    }
  }
  return Array.from(found, ([name, { value }]) => {
    if (name.length === 0 || name.includes("\0")) {
      throw new OcifsError(
        "corrupt",
        `${where}: extended attribute with the impossible name ${JSON.stringify(name.slice(0, 80))}`,
      );
    }
    if (name.length > limits.xattrNameBytes || value.length > limits.xattrValueBytes) {
      throw new OcifsError(
        "limit",
        `${where}: extended attribute ${JSON.stringify(name.slice(0, 80))} of ${value.length} bytes; Linux stores names of ` +
          `${limits.xattrNameBytes} and values of ${limits.xattrValueBytes} bytes`,
      );
    }
    return { name: Buffer.from(name, "latin1"), value };
  });
}

function urlDecoded(name: string): string {
  return name.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** libarchive leaves the padding out; both forms are read. */
function base64Decoded(value: Uint8Array, name: string, where: Where): Uint8Array {
  const text = Buffer.from(value).toString("latin1").replace(/=+$/, "");
  if (!/^[A-Za-z0-9+/]*$/.test(text) || text.length % 4 === 1) {
    throw new OcifsError(
      "corrupt",
      `${where}: extended attribute ${JSON.stringify(name.slice(0, 80))} is not valid base64`,
    );
  }
  return new Uint8Array(Buffer.from(text, "base64"));
}
