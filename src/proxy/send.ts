import type { ServerResponse } from "node:http";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { AnswerError } from "./answer-error.js";
import { errorBody } from "./answer-error.js";

export type Headers = Readonly<Record<string, string | number | readonly string[]>>;

/**
 * Sends an answer whose length is known. The head goes out with the first chunk: what fails before is still told with a status of
 * its own. What fails later is thrown with the connection destroyed, so that no client takes what it got for the whole.
 * Holds one chunk; a client that does not take it within `limits.proxyStallMs` loses its connection.
 */
export async function sendBody(
  response: ServerResponse,
  status: number,
  headers: Headers & { readonly "content-length": number },
  chunks: AsyncIterable<Uint8Array>,
): Promise<number> {
  let sent = 0;
  try {
    for await (const chunk of chunks) {
      if (!response.headersSent) writeHead(response, status, headers);
      sent += chunk.length;
      if (!response.write(chunk)) await drained(response);
    }
    if (sent !== headers["content-length"]) {
      throw new OcifsError("internal", `answer: ${sent} bytes of ${headers["content-length"]}`);
    }
  } catch (error) {
    if (response.headersSent) response.destroy();
    throw error;
  }
  if (!response.headersSent) writeHead(response, status, headers);
  response.end();
  return sent;
}

/** A short answer. Nothing but headers for HEAD. */
export function sendWhole(response: ServerResponse, status: number, headers: Headers, body: Uint8Array): void {
  writeHead(response, status, { ...headers, "content-length": body.length });
  response.end(response.req.method === "HEAD" ? undefined : body);
}

export function sendError(response: ServerResponse, error: AnswerError): void {
  // What a client sends along with a request that is refused is not waited for.
  const close = error.status === 405 ? { connection: "close" } : {};
  sendWhole(
    response,
    error.status,
    { "content-type": "application/json", ...close, ...error.headers },
    errorBody(error),
  );
}

function writeHead(response: ServerResponse, status: number, headers: Headers): void {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  response.setHeader("docker-distribution-api-version", "registry/2.0");
  response.writeHead(status);
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (error?: OcifsError) => {
      clearTimeout(timer);
      response.off("drain", onDrain);
      response.off("close", onClose);
      if (error) reject(error);
      else resolve();
    };
    const onDrain = () => done();
    const onClose = () => done(new OcifsError("aborted", "answer: the client closed the connection"));
    const timer = setTimeout(
      () => done(new OcifsError("timeout", `answer: the client took nothing for ${limits.proxyStallMs} ms`)),
      limits.proxyStallMs,
    );
    response.on("drain", onDrain);
    response.on("close", onClose);
    if (response.destroyed) onClose();
  });
}
