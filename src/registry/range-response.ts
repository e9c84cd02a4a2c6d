import { OcifsError } from "../base/errors.js";
import type { HttpResponse } from "./http-response.js";

/** The bytes that were asked for: [start, end) of a blob of `sizeBytes`. */
export interface WantedRange {
  readonly start: number;
  readonly end: number;
  readonly sizeBytes: number;
}

/** The value of a Range header; its last byte is inclusive. */
export function rangeHeader(range: WantedRange): string {
  return `bytes=${range.start}-${range.end - 1}`;
}

/**
 * Checks that a 2xx answer holds the wanted range, and says at which byte of the blob its body starts: at `start` for a 206
 * that carries exactly the range asked for, at 0 for a 200 of the whole blob. Anything else is `mismatch`: using it would
 * give bytes from the wrong place.
 */
export function bodyStartOf(response: HttpResponse, wanted: WantedRange, what: string): number {
  const fail = (why: string) => new OcifsError("mismatch", `${what}: ${response.url.host} ${why}`);
  const encoding = response.header("content-encoding");
  if (encoding !== undefined && encoding.trim().toLowerCase() !== "identity") {
    throw fail(`answered with Content-Encoding "${shown(encoding)}"; want the bytes as they are`);
  }
  if (/^\s*multipart\//i.test(response.header("content-type") ?? "")) throw fail("answered with a multipart body");
  const lengthText = response.header("content-length") ?? "none";
  if (response.status === 206) {
    const wantedText = `bytes ${wanted.start}-${wanted.end - 1}/${wanted.sizeBytes}`;
    const found = response.header("content-range") ?? "none";
    if (found.trim().toLowerCase() !== wantedText) {
      throw fail(`answered with Content-Range "${shown(found)}"; want "${wantedText}"`);
    }
    const length = response.contentLength();
    if (lengthText !== "none" && length !== wanted.end - wanted.start) {
      throw fail(`answered with Content-Length ${shown(lengthText)}; want ${wanted.end - wanted.start}`);
    }
    return wanted.start;
  }
  if (response.status === 200) {
    if (response.contentLength() !== wanted.sizeBytes) {
      throw fail(
        `answered with the whole blob, of Content-Length ${shown(lengthText)}; the manifest says ${wanted.sizeBytes}`,
      );
    }
    return 0;
  }
  throw fail(`answered HTTP ${response.status}; want 200 or 206`);
}

function shown(text: string): string {
  return text.replace(/[^\x20-\x7e]/g, "?").slice(0, 80);
}
