import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { RegistryError } from "../registry/registry-error.js";

/** An answer other than success: status, code of the distribution spec ("Error Codes"), headers. */
export class AnswerError extends OcifsError {
  readonly status: number;
  readonly specCode: string;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;

  constructor(
    status: number,
    specCode: string,
    message: string,
    headers: Readonly<Record<string, string | readonly string[]>> = {},
    cause?: unknown,
  ) {
    super(status >= 500 ? "network" : "usage", message, { cause });
    this.status = status;
    this.specCode = specCode;
    this.headers = headers;
  }
}

/**
 * How a failure is told to a client. `unknownCode`: what the spec calls it when the thing asked for is not there. A challenge of the
 * upstream is passed on to a client that is to answer it.
 */
export function toAnswerError(error: unknown, unknownCode: string, forwardsLogins: boolean): AnswerError {
  if (error instanceof AnswerError) return error;
  const message = messageOf(error);
  const answer = (status: number, code: string, headers: AnswerError["headers"] = {}) =>
    new AnswerError(status, code, message, headers, error);
  if (!isOcifsError(error)) return answer(500, "UNKNOWN");
  if (error instanceof RegistryError) {
    const { challenges, retryAfterMs } = error;
    if (forwardsLogins && error.status === 401 && challenges.length > 0) {
      return answer(401, "UNAUTHORIZED", { "www-authenticate": challenges });
    }
    if (error.status === 429) {
      return answer(429, "TOOMANYREQUESTS", { "retry-after": String(Math.ceil((retryAfterMs ?? 1000) / 1000)) });
    }
  }
  switch (error.code) {
    case "not-found":
      return answer(404, unknownCode);
    case "unauthorized":
    case "denied":
      return answer(403, "DENIED");
    case "timeout":
      return answer(504, "UNKNOWN");
    case "aborted":
    case "busy":
      return answer(503, "UNKNOWN", { "retry-after": "1" });
    case "io":
    case "no-space":
    case "internal":
      return answer(500, "UNKNOWN");
    default:
      return answer(502, "UNKNOWN");
  }
}

export function errorBody({ specCode, message }: AnswerError): Buffer {
  return Buffer.from(JSON.stringify({ errors: [{ code: specCode, message }] }));
}
