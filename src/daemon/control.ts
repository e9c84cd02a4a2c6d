import { readdir, rm } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { isOcifsError, messageOf, OcifsError } from "../base/errors.js";
import { limits } from "../base/limits.js";

/** A daemon answers from memory; one that does not within this is stuck. */
const ANSWER_TIMEOUT_MS = 5_000;

export type Method = (params: unknown) => unknown | Promise<unknown>;

/**
 * The daemon's control socket: JSON-RPC 2.0, one object a line, in a directory that only its owner can enter.
 */
export class ControlServer implements AsyncDisposable {
  readonly path: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
  }

  static async listen(path: string, methods: Readonly<Record<string, Method>>): Promise<ControlServer> {
    await rm(path, { force: true });
    const server = createServer();
    server.maxConnections = limits.controlConnections;
    const control = new ControlServer(path, server);
    server.on("connection", (socket) => control.#serve(socket, methods));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      // The socket is made within this call, for its owner only: whoever may write to it may connect.
      const umask = process.umask(0o177);
      try {
        server.listen(path, resolve);
      } finally {
        process.umask(umask);
      }
    });
    return control;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
    await rm(this.path, { force: true });
  }

  #serve(socket: Socket, methods: Readonly<Record<string, Method>>): void {
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
    // A client that breaks off is its own affair.
    socket.on("error", () => socket.destroy());
    let text = "";
    let open = 0;
    // A client that asks and does not listen, or asks faster than it can be answered, waits; nothing piles up here.
    const takeLines = () => {
      for (let end = text.indexOf("\n"); end >= 0 && open < limits.controlRequests; end = text.indexOf("\n")) {
        const line = text.slice(0, end);
        text = text.slice(end + 1);
        open++;
        void answer(line, methods)
          .then((reply) => (reply === undefined ? undefined : send(socket, `${reply}\n`)))
          .then(() => {
            open--;
            if (!socket.destroyed) takeLines();
          });
      }
      if (open < limits.controlRequests) socket.resume();
      else socket.pause();
    };
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => {
      text += chunk;
      takeLines();
      if (!text.includes("\n") && text.length > limits.controlMessageBytes) socket.destroy();
    });
  }
}

/** Resolves when the socket can take more, or is closed. */
async function send(socket: Socket, text: string): Promise<void> {
  if (socket.destroyed || socket.write(text)) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      socket.off("drain", done);
      socket.off("close", done);
      resolve();
    };
    socket.on("drain", done);
    socket.on("close", done);
  });
}

async function answer(line: string, methods: Readonly<Record<string, Method>>): Promise<string | undefined> {
  let id: unknown = null;
  const error = (code: number, message: string) => JSON.stringify({ jsonrpc: "2.0", id, error: { code, message } });
  let request: { jsonrpc?: unknown; id?: unknown; method?: unknown; params?: unknown };
  try {
    request = JSON.parse(line);
  } catch {
    return error(-32700, "parse error");
  }
  if (
    typeof request !== "object" ||
    request === null ||
    request.jsonrpc !== "2.0" ||
    typeof request.method !== "string" ||
    !isRequestId(request.id)
  ) {
    return error(-32600, "invalid request");
  }
  id = request.id ?? null;
  const method = Object.hasOwn(methods, request.method) ? methods[request.method] : undefined;
  if (!method) return error(-32601, `no method "${request.method.slice(0, 80)}"`);
  try {
    const result = await method(request.params);
    return request.id === undefined ? undefined : JSON.stringify({ jsonrpc: "2.0", id, result: result ?? null });
  } catch (cause) {
    return error(-32000, messageOf(cause));
  }
}

/** What JSON-RPC allows. Anything else could be nested so deep that it cannot be written back. */
function isRequestId(id: unknown): boolean {
  return id === undefined || id === null || typeof id === "string" || typeof id === "number";
}

/** Calls one method of the daemon behind `path`. `network` when nobody listens there. */
export function callDaemon(path: string, method: string, params?: unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let text = "";
    const fail = (error: OcifsError) => {
      socket.destroy();
      reject(error);
    };
    socket.setEncoding("utf8");
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => fail(new OcifsError("timeout", `${path}: the daemon does not answer`)));
    socket.once("error", (cause) => fail(new OcifsError("network", `${path}: ${cause.message}`, { cause })));
    socket.once("close", () => reject(new OcifsError("network", `${path}: the daemon closed the connection`)));
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (text.length > limits.controlMessageBytes)
        return fail(new OcifsError("limit", `${path}: answer of over ${limits.controlMessageBytes} bytes`));
      const end = text.indexOf("\n");
      if (end < 0) return;
      try {
        const reply = JSON.parse(text.slice(0, end)) as { result?: unknown; error?: { message: string } };
        if (reply.error) fail(new OcifsError("io", `${path}: ${reply.error.message}`));
        else resolve(reply.result);
        socket.destroy();
      } catch (cause) {
        fail(new OcifsError("corrupt", `${path}: the answer is not JSON`, { cause }));
      }
    });
    socket.once("connect", () => socket.write(`${JSON.stringify({ jsonrpc: "2.0", id: 1, method, params })}\n`));
  });
}

/** What the daemons said, in the order of their sockets' names, and why some said nothing. */
export interface DaemonAnswers {
  readonly answers: readonly unknown[];
  readonly failures: readonly OcifsError[];
}

/**
 * Calls `method` of every running daemon of this user, all at once: a stuck one keeps no other from answering. Sockets left
 * by dead ones are removed.
 */
export async function callAllDaemons(directory: string, method: string): Promise<DaemonAnswers> {
  const paths = await daemonSockets(directory);
  const settled = await Promise.allSettled(paths.map((path) => callIfAlive(path, method)));
  const answers: unknown[] = [];
  const failures: OcifsError[] = [];
  for (const one of settled) {
    if (one.status === "fulfilled") {
      if (one.value) answers.push(one.value.result);
    } else if (isOcifsError(one.reason)) failures.push(one.reason);
    else throw one.reason;
  }
  return { answers, failures };
}

/** Sockets of this user's daemons, of which some may be dead, in the order of their names. */
export async function daemonSockets(directory: string): Promise<string[]> {
  try {
    const names = await readdir(directory);
    return names
      .filter((name) => name.endsWith(".sock"))
      .sort()
      .map((name) => join(directory, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
}

/** Undefined when nobody listens there any more; then the socket is removed. */
export async function callIfAlive(path: string, method: string): Promise<{ result: unknown } | undefined> {
  for (let tries = 0; ; tries++) {
    try {
      return { result: await callDaemon(path, method) };
    } catch (error) {
      const cause = error instanceof OcifsError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
      if (cause?.code === "ECONNREFUSED") await rm(path, { force: true });
      if (cause?.code === "ECONNREFUSED" || cause?.code === "ENOENT") return undefined;
      // A daemon that is ending closes its connections; a second call then finds nobody.
      if (tries > 0 || !isOcifsError(error, "network")) throw error;
    }
  }
}
