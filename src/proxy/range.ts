/** What a Range header asks for of a blob: bytes [begin, end), all of it, or nothing that is there. */
export type RequestedRange =
  | { readonly kind: "all" }
  | { readonly kind: "unsatisfiable" }
  | {
      readonly kind: "part";
      readonly begin: number;
      readonly end: number;
      /** Both ends were named: its reader puts parts together and checks the whole. */
      readonly closed: boolean;
    };

const all = { kind: "all" } as const;

/**
 * RFC 9110 14.2: what is no range of bytes, or several of them, is passed over, so that the whole blob is the answer; a range that
 * begins past the end is not satisfiable; one that ends past it is cut. `ifRange` is compared with the entity tag.
 */
export function requestedRange(
  header: string | undefined,
  ifRange: string | undefined,
  etag: string,
  sizeBytes: number,
): RequestedRange {
  if (header === undefined || (ifRange !== undefined && ifRange.trim() !== etag)) return all;
  const match = /^\s*bytes\s*=\s*(\d{0,15})\s*-\s*(\d{0,15})\s*$/i.exec(header);
  const [, first = "", last = ""] = match ?? [];
  if (match === null || (first === "" && last === "")) return all;
  if (first === "") {
    const length = Math.min(Number(last), sizeBytes);
    if (length === 0) return { kind: "unsatisfiable" };
    return { kind: "part", begin: sizeBytes - length, end: sizeBytes, closed: false };
  }
  const begin = Number(first);
  if (last !== "" && Number(last) < begin) return all;
  if (begin >= sizeBytes) return { kind: "unsatisfiable" };
  const end = last === "" ? sizeBytes : Math.min(sizeBytes, Number(last) + 1);
  return { kind: "part", begin, end, closed: last !== "" && begin > 0 };
}
