import { OcifsError } from "../base/errors.js";

/** Throws `usage` unless [offset, offset + length) lies within [0, sizeBytes]. */
export function checkRange(offset: number, length: number, sizeBytes: number, what: string): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (!whole || offset + length > sizeBytes) {
    throw new OcifsError("usage", `${what}: ${length} bytes at ${offset} are not within its ${sizeBytes} bytes`);
  }
}
