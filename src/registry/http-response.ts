import type { Dispatcher } from "undici";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { cleanText } from "./redact.js";
import { codeOfStatus, fromTransport, RegistryError } from "./registry-error.js";
import { parseRetryAfter } from "./retry.js";
import type { TransferStats } from "./transfer-stats.js";

/** A response whose head has arrived. Its body must be read, discarded or destroyed: it holds a connection. */
export class HttpResponse implements Disposable {
  readonly status: number;
  /** Where it came from, after redirects. */
  readonly url: URL;
  readonly #data: Dispatcher.ResponseData;
  readonly #what: string;
  readonly #signal: AbortSignal;
  readonly #stats: TransferStats;

  constructor(
    data: Dispatcher.ResponseData,
    context: { url: URL; what: string; signal: AbortSignal; stats: TransferStats },
  ) {
    this.status = data.statusCode;
    this.url = context.url;
    this.#data = data;
    this.#what = context.what;
    this.#signal = context.signal;
    this.#stats = context.stats;
  }

  /** A header sent more than once is joined with ", ", as RFC 9110 5.3 says. */
  header(name: string): string | undefined {
    const value = this.#data.headers[name];
    return typeof value === "string" || value === undefined ? value : value.join(", ");
  }

  headers(name: string): readonly string[] {
    const value = this.#data.headers[name];
    return value === undefined ? [] : typeof value === "string" ? [value] : value;
  }

  /** Content-Length; undefined when absent or not a plain number. */
  contentLength(): number | undefined {
    const text = this.header("content-length");
    return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
  }

  /** The chunks of the body as they come. Ending early closes the connection. Throws RegistryErrors. */
  async *body(): AsyncIterable<Uint8Array> {
    try {
      for await (const chunk of this.#data.body as AsyncIterable<Uint8Array>) {
        this.#stats.add("bytes", chunk.length);
        yield chunk;
      }
    } catch (error) {
      throw fromTransport(error, this.#what, this.#signal);
    }
  }

  /** The whole body; throws `limit` when it is longer than `maxBytes`. */
  async readAll(maxBytes: number): Promise<Uint8Array> {
    const declared = this.contentLength();
    if (declared !== undefined && declared > maxBytes) {
      this[Symbol.dispose]();
      throw new OcifsError("limit", `${this.#what}: an answer of ${declared} bytes, the limit is ${maxBytes}`);
    }
    const chunks: Uint8Array[] = [];
    let sizeBytes = 0;
    for await (const chunk of this.body()) {
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) {
        throw new OcifsError("limit", `${this.#what}: an answer of more than ${maxBytes} bytes`);
      }
      chunks.push(chunk);
    }
    return Buffer.concat(chunks, sizeBytes);
  }

  /** Frees the connection for the next request, by reading a short rest of the body or closing it. */
  async discard(): Promise<void> {
    try {
      await this.#data.body.dump({ limit: limits.discardedBodyBytes, signal: this.#signal });
    } catch (error) {
      throw fromTransport(error, this.#what, this.#signal);
    }
  }

  /** Closes the connection unless the body has been read to its end. */
  [Symbol.dispose](): void {
    // Destroying a body that nobody reads emits an error that nobody would hear.
    this.#data.body.on("error", () => undefined);
    this.#data.body.destroy();
  }

  /** The error this response stands for. Reads the body for the registry's own explanation; `secrets` are cut from it. */
  async toError(nowMs: number, secrets: readonly string[] = []): Promise<RegistryError> {
    const { code, retryable } = codeOfStatus(this.status);
    const body = await this.#readErrorBody();
    // With 416 a server says how long it thinks the blob is.
    const range = this.status === 416 ? this.header("content-range") : undefined;
    const explanation = range === undefined ? explain(body, secrets) : `Content-Range ${cleanText(range, 80)}`;
    const detail = explanation === "" ? "" : ` (${explanation})`;
    return new RegistryError(code, `${this.#what}: ${this.url.host} answered HTTP ${this.status}${detail}`, {
      retryable,
      status: this.status,
      challenges: this.status === 401 ? this.headers("www-authenticate") : [],
      retryAfterMs: retryable ? parseRetryAfter(this.header("retry-after"), nowMs) : undefined,
    });
  }

  async #readErrorBody(): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let sizeBytes = 0;
    try {
      for await (const chunk of this.body()) {
        chunks.push(chunk);
        sizeBytes += chunk.length;
        if (sizeBytes >= limits.errorBodyBytes) break;
      }
    } catch (error) {
      // The status is the failure to report; a body cut short only costs the explanation. Cancelling still cancels.
      if (this.#signal.aborted) throw error;
    }
    return Buffer.concat(chunks).subarray(0, limits.errorBodyBytes);
  }
}

/** `CODE: message` of the distribution spec's `{"errors": […]}`; empty when the body is anything else. */
function explain(body: Uint8Array, secrets: readonly string[]): string {
  let document: unknown;
  try {
    document = JSON.parse(Buffer.from(body).toString("utf8"));
  } catch {
    // Proxies and stores answer with HTML or XML, whose text may quote signatures: not shown.
    return "";
  }
  if (typeof document !== "object" || document === null || !("errors" in document)) return "";
  if (!Array.isArray(document.errors)) return "";
  const lines = document.errors.slice(0, 3).map((item: unknown) => {
    if (typeof item !== "object" || item === null) return "";
    const code = "code" in item && typeof item.code === "string" ? item.code : "";
    const message = "message" in item && typeof item.message === "string" ? item.message : "";
    return [code, message].filter((part) => part !== "").join(": ");
  });
  return cleanText(lines.filter((line: string) => line !== "").join("; "), 300, secrets);
}
