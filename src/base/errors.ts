/**
 * The one error type that crosses module borders. `code` decides what happens next (retry, errno, exit code);
 * `message` is one sentence for a person: operation, object, what was found, what was wanted, what to do.
 */
export type OcifsErrorCode =
  /** The user asked for something that makes no sense: bad option, bad reference, rw mount. */
  | "usage"
  /** The named thing does not exist: tag, blob, layer number, path. */
  | "not-found"
  /** No credentials, or the server does not accept them (401). */
  | "unauthorized"
  /** The server knows who we are and refuses (403). */
  | "denied"
  /** The network or the server failed in a way that may pass: reset, 5xx, 429, DNS. */
  | "network"
  /** A deadline passed. */
  | "timeout"
  /** Bytes that do not parse, or parse to something impossible. */
  | "corrupt"
  /** Well-formed bytes that are not the ones that were asked for: digest, size, index of another layer. */
  | "mismatch"
  /** Legal input that ocifs does not handle; the message names the feature. */
  | "unsupported"
  /** An input exceeds a limit of `limits.ts`. */
  | "limit"
  /** A local system call failed. */
  | "io"
  /** The file system that holds the cache is full. */
  | "no-space"
  /** Something else holds the resource: mountpoint in use, cache locked. */
  | "busy"
  /** The caller's AbortSignal fired, or the owner was closed. */
  | "aborted"
  /** A broken invariant of ours. */
  | "internal";

export class OcifsError extends Error {
  readonly code: OcifsErrorCode;

  constructor(code: OcifsErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "OcifsError";
    this.code = code;
  }
}

/** True when `error` is an OcifsError, and has this code if one is given. */
export function isOcifsError(error: unknown, code?: OcifsErrorCode): error is OcifsError {
  return error instanceof OcifsError && (code === undefined || error.code === code);
}

/** The text of anything thrown, for messages that quote a cause. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Throws `aborted` when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined, operation: string): void {
  if (signal?.aborted) throw new OcifsError("aborted", `${operation}: cancelled`, { cause: signal.reason });
}
