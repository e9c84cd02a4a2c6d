import { messageOf, OcifsError, type OcifsErrorCode } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { cleanText } from "./redact.js";

/** An OcifsError that also says whether another attempt may help. Callers outside look at `code` alone. */
export class RegistryError extends OcifsError {
  readonly retryable: boolean;
  /** HTTP status, when a server answered. */
  readonly status: number | undefined;
  /** What Retry-After asked for. */
  readonly retryAfterMs: number | undefined;
  /** What WWW-Authenticate said, with a 401. */
  readonly challenges: readonly string[];

  constructor(
    code: OcifsErrorCode,
    message: string,
    details: {
      retryable?: boolean;
      status?: number;
      retryAfterMs?: number | undefined;
      challenges?: readonly string[];
      cause?: unknown;
    } = {},
  ) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.retryable = details.retryable ?? false;
    this.status = details.status;
    this.retryAfterMs = details.retryAfterMs;
    this.challenges = details.challenges ?? [];
  }
}

export function isRetryable(error: unknown): error is RegistryError {
  return error instanceof RegistryError && error.retryable;
}

/**
 * True when nobody could be asked, or who was asked could not answer: no network, no such host, a deadline, 5xx, 429. A server that refuses
 * (401, 403, 404) or is not who it should be (certificate) has answered.
 */
export function isOutage(error: unknown): error is OcifsError {
  if (!(error instanceof OcifsError)) return false;
  if (error.code === "timeout" || isRetryable(error)) return true;
  // What is given up after several attempts has the last failure as its cause.
  return error.code === "network" && (codeOf(error.cause) === "ENOTFOUND" || isOutage(error.cause));
}

const noOneThere: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENETDOWN",
  "EAI_AGAIN",
]);

/** True for a failure to connect that another attempt within seconds will hardly change. */
export function isUnreachable(error: unknown): boolean {
  return error instanceof OcifsError && noOneThere.has(codeOf(error.cause));
}

/** What an HTTP status other than success means. */
export function codeOfStatus(status: number): { code: OcifsErrorCode; retryable: boolean } {
  if (status === 401) return { code: "unauthorized", retryable: false };
  if (status === 404 || status === 410) return { code: "not-found", retryable: false };
  if (status === 416) return { code: "mismatch", retryable: false };
  if (status === 408 || status === 429) return { code: "network", retryable: true };
  if (status === 501 || status === 505) return { code: "unsupported", retryable: false };
  if (status >= 500) return { code: "network", retryable: true };
  if (status >= 400) return { code: "denied", retryable: false };
  return { code: "unsupported", retryable: false };
}

const timeouts: ReadonlySet<string> = new Set([
  "UND_ERR_CONNECT_TIMEOUT",
  "UND_ERR_HEADERS_TIMEOUT",
  "UND_ERR_BODY_TIMEOUT",
  "ETIMEDOUT",
]);

/** Node's and OpenSSL's names for a certificate that cannot be trusted; trying again changes nothing. */
const certificateError = /^(ERR_TLS_|CERT_|SELF_SIGNED_|DEPTH_ZERO_|UNABLE_TO_|HOSTNAME_MISMATCH|INVALID_CA)/;

/** Turns what undici or Node threw into a RegistryError; OcifsErrors pass. `what` names the operation and the object. */
export function fromTransport(error: unknown, what: string, signal: AbortSignal): OcifsError {
  if (error instanceof OcifsError) return error;
  if (signal.aborted) {
    const reason: unknown = signal.reason;
    return reason instanceof OcifsError && reason.code !== "aborted"
      ? reason
      : new OcifsError("aborted", `${what}: cancelled`, { cause: reason });
  }
  const code = codeOf(error);
  const text = cleanText(messageOf(error) || code, 200);
  if (timeouts.has(code)) {
    return new RegistryError("timeout", `${what}: no answer in time (${text})`, { retryable: true, cause: error });
  }
  if (code === "UND_ERR_HEADERS_OVERFLOW") {
    const message = `${what}: a response with more than ${limits.httpHeaderBytes} bytes of header fields`;
    return new RegistryError("limit", message, { cause: error });
  }
  if (certificateError.test(code)) {
    return new RegistryError("network", `${what}: the server's certificate is not trusted (${text})`, { cause: error });
  }
  if (code === "EPROTO" || code.startsWith("ERR_SSL_")) {
    const hint = "is this a plain HTTP registry? Then give oci.insecure";
    return new RegistryError("network", `${what}: TLS failed (${text}); ${hint}`, { cause: error });
  }
  if (code === "ENOTFOUND") {
    return new RegistryError("network", `${what}: no such host (${text})`, { cause: error });
  }
  return new RegistryError("network", `${what}: ${text}`, { retryable: true, cause: error });
}

/** The code of an error, or of the first of several (an AggregateError of all addresses tried). */
function codeOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return codeOf(error.errors[0]);
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  return "";
}
