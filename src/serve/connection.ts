import { closeSync } from "node:fs";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import type { FdSocket } from "./fd-socket.js";
import { MessageSplitter } from "./message-splitter.js";
import type { Answer, FdMethod, MethodTable } from "./methods.js";

/** JSON-RPC 2.0, and the code that descriptor passing adds to it. */
const codes = { parse: -32700, request: -32600, method: -32601, params: -32602, failed: -32000, fds: -32050 } as const;

/** What ends a connection: after it, messages and descriptors cannot be told apart. */
class Fatal extends Error {}

/**
 * One client. Its requests are answered one after the other, and the next is read when the answer was taken: who asks and does not
 * listen waits, and nothing piles up.
 */
export class Connection {
  readonly #socket: FdSocket;
  readonly #methods: MethodTable;
  readonly #splitter = new MessageSplitter();
  readonly #gone = new AbortController();
  /** Descriptors that have come and no message has taken. */
  #fds: number[] = [];

  constructor(socket: FdSocket, methods: MethodTable) {
    this.#socket = socket;
    this.#methods = methods;
  }

  /** Serves until the client ends, breaks the rules or stalls. Never rejects: that is the client's affair. */
  async run(): Promise<void> {
    try {
      for (let got = await this.#socket.receive(); got; got = await this.#socket.receive()) {
        this.#fds.push(...got.fds);
        if (this.#fds.length > limits.streamFds) throw new Fatal();
        // A copy: answering may take long, and the next receive is of the same buffer.
        for (const message of this.#splitter.push(Buffer.from(got.bytes))) await this.#answer(message);
      }
    } catch (error) {
      if (!(error instanceof Fatal) && !isOcifsError(error)) throw error;
      if (isOcifsError(error, "corrupt") || isOcifsError(error, "limit")) await this.#sendLast(error);
    } finally {
      this.close();
    }
  }

  close(): void {
    this.#gone.abort(new OcifsError("aborted", "the client has gone"));
    for (const fd of this.#fds.splice(0)) closeSync(fd);
    this.#socket[Symbol.dispose]();
  }

  async #answer(message: Buffer): Promise<void> {
    let request: Record<string, unknown>;
    try {
      request = JSON.parse(message.toString("utf8")) as Record<string, unknown>;
    } catch {
      await this.#reply(null, { error: { code: codes.parse, message: "parse error" } });
      throw new Fatal();
    }
    if (!("jsonrpc" in request) && typeof request.method === "string") return await this.#answerVarlink(request);
    const { id, method, params = {} } = request;
    const known = id === null || typeof id === "string" || typeof id === "number";
    await this.#takeFds(request.fds, known ? id : null);
    if (request.jsonrpc !== "2.0" || typeof method !== "string" || !known || id === null) {
      return await this.#reply(known ? id : null, { error: { code: codes.request, message: "invalid request" } });
    }
    if (!isObject(params))
      return await this.#reply(id, { error: { code: codes.params, message: "params: want an object" } });
    const found = own(this.#methods.jsonRpc, method);
    if (!found)
      return await this.#reply(id, { error: { code: codes.method, message: `no method "${method.slice(0, 80)}"` } });
    await this.#call(
      found,
      params,
      ({ result, fds = [] }) => this.#reply(id, { result, ...(fds.length > 0 ? { fds: fds.length } : {}) }, fds),
      (error) => {
        const code = isOcifsError(error, "usage") ? codes.params : codes.failed;
        return this.#reply(id, { error: { code, message: messageOf(error), data: { code: error.code } } });
      },
    );
  }

  /** No method takes descriptors. A count that is none, or that does not come true, leaves nothing to go on with. */
  async #takeFds(count: unknown, id: unknown): Promise<void> {
    if ((count === undefined || count === 0) && this.#fds.length === 0) return;
    await this.#reply(id, {
      error: { code: codes.fds, message: "File Descriptor Error: no method here takes descriptors" },
    });
    throw new Fatal();
  }

  async #answerVarlink({ method, parameters = {}, oneway }: Record<string, unknown>): Promise<void> {
    if (this.#fds.length > 0) throw new Fatal();
    const reply = async (value: object, fds: readonly number[] = []) => {
      if (oneway !== true) await this.#socket.send(Buffer.from(`${JSON.stringify(value)}\0`), fds, 0);
    };
    const found = own(this.#methods.varlink, String(method));
    if (!found) {
      const dot = String(method).lastIndexOf(".");
      const kind = dot > 0 ? "MethodNotFound" : "InterfaceNotFound";
      return await reply({ error: `org.varlink.service.${kind}`, parameters: { method: String(method).slice(0, 80) } });
    }
    if (!isObject(parameters)) {
      return await reply({ error: "org.varlink.service.InvalidParameter", parameters: { parameter: "parameters" } });
    }
    await this.#call(
      found,
      parameters,
      ({ result, fds }) => reply({ parameters: result }, fds),
      (error) => reply(this.#methods.varlinkError(error, parameters)),
    );
  }

  async #call(
    method: FdMethod,
    params: Readonly<Record<string, unknown>>,
    onAnswer: (answer: Answer) => Promise<void>,
    onError: (error: OcifsError) => Promise<void>,
  ): Promise<void> {
    let answer: Answer;
    try {
      answer = await method(params, this.#gone.signal);
    } catch (error) {
      return await onError(
        isOcifsError(error) ? error : new OcifsError("internal", messageOf(error), { cause: error }),
      );
    }
    try {
      await onAnswer(answer);
    } finally {
      for (const fd of answer.fds ?? []) closeSync(fd);
    }
  }

  async #reply(id: unknown, body: object, fds: readonly number[] = []): Promise<void> {
    await this.#socket.send(Buffer.from(`${JSON.stringify({ jsonrpc: "2.0", id, ...body })}\n`), fds);
  }

  async #sendLast(error: OcifsError): Promise<void> {
    await this.#reply(null, { error: { code: codes.parse, message: error.message } }).catch(() => undefined);
  }
}

function own(table: Readonly<Record<string, FdMethod>>, name: string): FdMethod | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
