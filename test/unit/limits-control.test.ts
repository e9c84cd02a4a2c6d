import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { Readable } from "node:stream";
import { type TestContext, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { ControlServer, callDaemon } from "../../src/daemon/control.js";
import { readReadiness } from "../../src/daemon/launch.js";
import { rejectsWith } from "../support/errors.js";
import { tempDirectory } from "../support/temp.js";

async function client(t: TestContext, path: string): Promise<Socket> {
  const socket = connect(path);
  t.after(() => socket.destroy());
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}

const request = (method: string, id: unknown) => `${JSON.stringify({ jsonrpc: "2.0", id, method })}\n`;

test("a message without end ends the connection, and only that one", async (t) => {
  const path = join(await tempDirectory(t), "s");
  await using server = await ControlServer.listen(path, { ping: () => "pong" });
  const socket = await client(t, server.path);
  const closed = once(socket, "close");
  socket.write("x".repeat(limits.controlMessageBytes + 1));
  await closed;
  assert.equal(await callDaemon(path, "ping"), "pong");
});

test("an answer without end is limit", async (t) => {
  const path = join(await tempDirectory(t), "s");
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.write("x".repeat(limits.controlMessageBytes + 1));
  });
  t.after(() => server.close());
  server.listen(path);
  await once(server, "listening");
  await rejectsWith(callDaemon(path, "ping"), "limit");
});

test("a client that asks on and on waits for its answers", async (t) => {
  const path = join(await tempDirectory(t), "s");
  let started = 0;
  let most = 0;
  let running = 0;
  const release: (() => void)[] = [];
  await using _server = await ControlServer.listen(path, {
    slow: async () => {
      started++;
      most = Math.max(most, ++running);
      await new Promise<void>((resolve) => release.push(resolve));
      running--;
      return started;
    },
    ping: () => "pong",
  });
  const socket = await client(t, path);
  let lines = 0;
  socket.setEncoding("utf8").on("data", (text: string) => {
    lines += text.split("\n").length - 1;
    for (const go of release.splice(0)) go();
  });
  const asked = 100;
  socket.write(Array.from({ length: asked }, (_, id) => request("slow", id)).join(""));
  // Everybody else is served meanwhile.
  while (started < limits.controlRequests) assert.equal(await callDaemon(path, "ping"), "pong");
  for (const go of release.splice(0)) go();
  while (lines < asked) await once(socket, "data");
  assert.equal(started, asked);
  assert.equal(most, limits.controlRequests);
});

test("an id that is no id, however deep, is an invalid request", async (t) => {
  const path = join(await tempDirectory(t), "s");
  await using _server = await ControlServer.listen(path, { ping: () => "pong" });
  const socket = await client(t, path);
  const deep = `${"[".repeat(200_000)}${"]".repeat(200_000)}`;
  socket.setEncoding("utf8").write(`{"jsonrpc":"2.0","method":"ping","id":${deep}}\n${request("x".repeat(1000), 7)}`);
  let text = "";
  while (text.split("\n").length < 3) text += String((await once(socket, "data"))[0]);
  const [first, second] = text.split("\n");
  assert.deepEqual(JSON.parse(first ?? ""), {
    jsonrpc: "2.0",
    id: null,
    error: { code: -32600, message: "invalid request" },
  });
  assert.equal(JSON.parse(second ?? "").error.code, -32601);
  assert.ok((second ?? "").length < 200);
  assert.equal(await callDaemon(path, "ping"), "pong");
});

const ignore = () => undefined;

test("what a daemon says before it is ready is one line of bounded length", async () => {
  const failed = { ok: false, code: "io", message: "m".repeat(1000) } as const;
  assert.deepEqual(
    await readReadiness(Readable.from([Buffer.from(`${JSON.stringify(failed)}\nmore`)]), ignore),
    failed,
  );
  assert.equal(await readReadiness(Readable.from([]), ignore), undefined);
  const piece = Buffer.alloc(1 << 10, "x");
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) yield piece;
  }
  await rejectsWith(readReadiness(Readable.from(endless()), ignore), "limit");
});

test("more clients than are served are turned away", async (t) => {
  const path = join(await tempDirectory(t), "s");
  await using _server = await ControlServer.listen(path, { ping: () => "pong" });
  const sockets = await Promise.all(Array.from({ length: limits.controlConnections }, () => client(t, path)));
  // Each is known to be served before the next one comes.
  for (const socket of sockets) {
    socket.write(request("ping", 1));
    await once(socket, "data");
  }
  await rejectsWith(callDaemon(path, "ping"), "network");
  const [first] = sockets;
  assert.ok(first !== undefined);
  const gone = once(first, "close");
  first.end();
  await gone;
});
