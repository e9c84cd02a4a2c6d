import { closeSync } from "node:fs";
import { OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";
import { connectSocket, SocketPoller } from "../native/fdpass.js";
import { FdSocket } from "./fd-socket.js";
import { MessageSplitter } from "./message-splitter.js";

/** An answer with its descriptors, which are the caller's to close. */
export interface FdReply {
  readonly result: Readonly<Record<string, unknown>>;
  readonly fds: readonly number[];
}

/** The other side of `ocifs serve`: one call at a time. */
export class FdClient implements Disposable {
  readonly #poller = new SocketPoller();
  readonly #socket: FdSocket;
  readonly #splitter = new MessageSplitter();
  #fds: number[] = [];
  #id = 0;

  private constructor(path: string) {
    try {
      this.#socket = new FdSocket(connectSocket(path), this.#poller);
    } catch (error) {
      this.#poller[Symbol.dispose]();
      throw error;
    }
  }

  static connect(path: string): FdClient {
    return new FdClient(path);
  }

  /** A JSON-RPC call. What the server refuses is an `io` error with its words. */
  async call(method: string, params: object): Promise<FdReply> {
    const id = ++this.#id;
    await this.#socket.send(Buffer.from(JSON.stringify({ jsonrpc: "2.0", id, method, params })));
    const { message, take } = await this.#next();
    const {
      error,
      result,
      fds = 0,
    } = message as { error?: { message: string }; result?: FdReply["result"]; fds?: number };
    if (error) throw new OcifsError("io", `${method}: ${error.message}`);
    return { result: result ?? {}, fds: await take(fds) };
  }

  /** A varlink call with one reply. */
  async callVarlink(method: string, parameters: object): Promise<FdReply> {
    await this.#socket.send(Buffer.from(`${JSON.stringify({ method, parameters })}\0`));
    const { message } = await this.#next();
    const reply = message as { error?: string; parameters?: FdReply["result"] };
    if (reply.error !== undefined)
      throw new OcifsError("io", `${method}: ${reply.error} ${JSON.stringify(reply.parameters)}`);
    return { result: reply.parameters ?? {}, fds: this.#fds.splice(0) };
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds.splice(0)) closeSync(fd);
    this.#socket[Symbol.dispose]();
    this.#poller[Symbol.dispose]();
  }

  async #next(): Promise<{ message: unknown; take: (count: number) => Promise<readonly number[]> }> {
    for (;;) {
      const [message] = this.#splitter.push(await this.#receive());
      if (!message) continue;
      const take = async (count: number) => {
        if (!Number.isSafeInteger(count) || count < 0 || count > limits.streamFds) {
          throw new OcifsError("corrupt", `socket: an answer with ${count} descriptors, want 0 to ${limits.streamFds}`);
        }
        while (this.#fds.length < count)
          for (const _ of this.#splitter.push(await this.#receive()))
            throw new OcifsError("corrupt", "socket: a message before the descriptors of the one before");
        return this.#fds.splice(0, count);
      };
      return { message: JSON.parse(message.toString("utf8")), take };
    }
  }

  async #receive(): Promise<Buffer> {
    const got = await this.#socket.receive();
    if (!got) throw new OcifsError("network", "socket: the server has closed it");
    this.#fds.push(...got.fds);
    if (this.#fds.length > limits.streamFds)
      throw new OcifsError("limit", `socket: more than ${limits.streamFds} descriptors`);
    return Buffer.from(got.bytes);
  }
}
