import { OcifsError } from "../base/errors.js";
import type { Where } from "./quote.js";

/** One record of a PAX extended header. Keys are ASCII keywords or hold raw bytes, one char a byte; values are raw bytes. */
export interface PaxRecord {
  readonly key: string;
  /** A view of the header's payload. */
  readonly value: Buffer;
}

/**
 * The records `"<length> <key>=<value>\n"` of an extended header (POSIX.1-2001 pax), in order. The length is of the whole record in
 * bytes, so values may hold any byte, newlines and NULs included. Throws `corrupt`.
 */
export function* paxRecords(payload: Buffer, where: Where): Generator<PaxRecord> {
  const bad = (at: number, what: string) =>
    new OcifsError("corrupt", `${where}: PAX record at byte ${at} of its header ${what}`);
  for (let at = 0; at < payload.length; ) {
    // Some writers fill the rest of the payload with NULs.
    if (payload[at] === 0 && payload.subarray(at).every((byte) => byte === 0)) return;
    let digits = at;
    let length = 0;
    while (digits < payload.length && digits - at < 10) {
      const byte = payload[digits] ?? 0;
      if (byte < 0x30 || byte > 0x39) break;
      length = length * 10 + (byte - 0x30);
      digits++;
    }
    if (digits === at || payload[digits] !== 0x20) throw bad(at, "does not start with its length in digits");
    const end = at + length;
    if (end > payload.length || end < digits + 3) throw bad(at, `has length ${length}, which does not fit`);
    if (payload[end - 1] !== 0x0a) throw bad(at, "does not end with a newline");
    const equals = payload.indexOf(0x3d, digits + 1);
    if (equals === -1 || equals >= end - 1 || equals === digits + 1) throw bad(at, "has no key=value");
    const key = payload.toString("latin1", digits + 1, equals);
    yield { key, value: payload.subarray(equals + 1, end - 1) };
    at = end;
  }
}

/** A PAX decimal integer. Throws `corrupt`, or `limit` above 2^53. */
export function paxInteger(value: Buffer, key: string, where: Where): number {
  const text = value.toString("latin1");
  if (!/^-?[0-9]+$/.test(text)) {
    throw new OcifsError(
      "corrupt",
      `${where}: PAX ${key} is ${JSON.stringify(text.slice(0, 40))}, want a decimal number`,
    );
  }
  const number = Number(text);
  if (!Number.isSafeInteger(number)) throw new OcifsError("limit", `${where}: PAX ${key} is larger than 2^53`);
  return number;
}

export interface PaxTime {
  readonly seconds: number;
  /** 0 to 999,999,999, also before 1970. */
  readonly nanoseconds: number;
}

/** A PAX time, `seconds[.fraction]`, possibly negative; digits below a nanosecond are cut towards the past, as tars do. */
export function paxTime(value: Buffer, key: string, where: Where): PaxTime {
  const text = value.toString("latin1");
  const match = /^(-?)([0-9]+)(?:\.([0-9]*))?$/.exec(text);
  if (!match) {
    throw new OcifsError("corrupt", `${where}: PAX ${key} is ${JSON.stringify(text.slice(0, 40))}, want seconds`);
  }
  const [, sign, whole, fraction = ""] = match;
  const seconds = Number(whole);
  if (!Number.isSafeInteger(seconds)) throw new OcifsError("limit", `${where}: PAX ${key} is larger than 2^53 seconds`);
  let nanoseconds = Number(fraction.slice(0, 9).padEnd(9, "0"));
  if (sign === "") return { seconds, nanoseconds };
  if (/[1-9]/.test(fraction.slice(9))) nanoseconds++;
  return nanoseconds === 0
    ? { seconds: 0 - seconds, nanoseconds: 0 }
    : { seconds: -seconds - 1, nanoseconds: 1e9 - nanoseconds };
}
