import assert from "node:assert/strict";
import { once } from "node:events";
import { closeSync, createReadStream, fstatSync, openSync, readSync } from "node:fs";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { OcifsError } from "../../src/base/errors.js";
import { silentLog } from "../../src/base/log.js";
import { Destination } from "../../src/content/destination.js";
import { decodeStream, importStream, type StreamFormat } from "../../src/content/import-stream.js";
import { SocketPoller } from "../../src/native/fdpass.js";
import { openSocketPair } from "../../src/native/fuse.js";
import type { Digest } from "../../src/oci/digest.js";
import { Connection } from "../../src/serve/connection.js";
import { FdClient } from "../../src/serve/fd-client.js";
import { FdServer } from "../../src/serve/fd-server.js";
import { FdSocket } from "../../src/serve/fd-socket.js";
import type { MethodTable } from "../../src/serve/methods.js";
import type { Mounter } from "../../src/serve/mount-methods.js";
import { serveCache } from "../../src/serve/serve.js";
import { rejectsWith } from "../support/errors.js";
import { lowerLimits } from "../support/lowered-limits.js";
import { programLine, runCommand } from "../support/mounted-image.js";
import { makeSampleLayer, sampleBig } from "../support/sample-layer.js";
import { tempDirectory } from "../support/temp.js";

const signal = new AbortController().signal;
/** Mounting through the socket: test/mount/serve-mount.test.ts. */
const noMounts: Mounter = { mount: () => assert.fail(), unmount: () => assert.fail() };

/** A server whose methods answer with so many descriptors, or never read on. */
const methods = (path: string, onGone: () => void = () => undefined): MethodTable => ({
  jsonRpc: {
    fds: async ({ count }) => ({
      result: { count },
      fds: Array.from({ length: Number(count) }, () => openSync(path, "r")),
    }),
    large: async (_params, gone) => {
      gone.addEventListener("abort", onGone);
      return { result: { text: "x".repeat(4 << 20) } };
    },
    ping: async () => ({ result: "pong" }),
  },
  varlink: {},
  varlinkError: () => ({ error: "test.Error", parameters: {} }),
});

async function startServer(t: TestContext, onGone?: () => void): Promise<string> {
  const directory = await tempDirectory(t);
  const file = join(directory, "file");
  await writeFile(file, "content");
  const server = await FdServer.listen(join(directory, "s"), {
    open: (socket) => new Connection(socket, methods(file, onGone)),
    log: silentLog,
  });
  t.after(() => server[Symbol.asyncDispose]());
  return server.path;
}

async function client(t: TestContext, path: string): Promise<Socket> {
  const socket = connect(path);
  socket.on("error", () => undefined);
  t.after(() => socket.destroy());
  await once(socket, "connect");
  return socket;
}

async function answerOf(path: string, method: string): Promise<unknown> {
  using other = FdClient.connect(path);
  return (await other.call(method, {})).result;
}

/** All that a server says to a client until it ends the connection. */
async function textUntilEnd(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk) => (text += String(chunk)));
  // Not events.once: that one rejects when the server does not read the rest of what was written.
  await new Promise((resolve) => socket.once("close", resolve));
  return text;
}

test("descriptors come in order and whole, more than one message can carry too", async (t) => {
  const path = await startServer(t);
  using connection = FdClient.connect(path);
  for (const count of [0, 1, 252, 253, 254, 600]) {
    const { result, fds } = await connection.call("fds", { count });
    assert.deepEqual([result.count, fds.length], [count, count]);
    const byte = Buffer.alloc(1);
    for (const fd of fds) {
      assert.equal(readSync(fd, byte, 0, 1, 0), 1);
      closeSync(fd);
    }
  }
  assert.equal(await answerOf(path, "ping"), "pong");
});

test("a message larger than the socket takes is sent once, with its descriptors once", async (t) => {
  const [a, b] = openSocketPair();
  using poller = new SocketPoller();
  using sender = new FdSocket(a, poller);
  using receiver = new FdSocket(b, poller);
  const directory = await tempDirectory(t);
  const fd = openSync(directory, "r");
  const message = Buffer.alloc(3 << 20, "m");
  const sent = sender.send(message, [fd]).finally(() => closeSync(fd));
  let bytes = 0;
  let fds = 0;
  while (bytes < message.length) {
    const got = await receiver.receive();
    assert.ok(got);
    assert.ok(got.bytes.every((byte) => byte === 0x6d));
    bytes += got.bytes.length;
    fds += got.fds.length;
    for (const each of got.fds) closeSync(each);
  }
  await sent;
  assert.deepEqual([bytes, fds], [message.length, 1]);
});

test("garbage, and a count of descriptors that is none, end the connection and nothing else", async (t) => {
  const path = await startServer(t);
  const ping = '{"jsonrpc":"2.0","id":1,"method":"ping"';
  for (const [message, wanted] of [
    ["\xff\xfe", /-32700/],
    ["[1]", /-32700/],
    ['{"jsonrpc":"2.0",}', /-32700/],
    [`${ping},"fds":-1}`, /-32050/],
    [`${ping},"fds":3}`, /-32050/],
    [`${ping},"fds":"x"}`, /-32050/],
  ] as const) {
    const socket = await client(t, path);
    socket.write(message);
    assert.match(await textUntilEnd(socket), wanted);
  }
  assert.equal(await answerOf(path, "ping"), "pong");
});

test("requests that make no sense are answered, and the connection goes on", async (t) => {
  const path = await startServer(t);
  const socket = await client(t, path);
  const ask = async (text: string) => {
    socket.write(text);
    return String((await once(socket, "data"))[0]);
  };
  assert.match(await ask('{"jsonrpc":"1.0","id":1,"method":"ping"}'), /-32600/);
  assert.match(await ask('{"jsonrpc":"2.0","method":"ping"}'), /-32600/);
  assert.match(await ask('{"jsonrpc":"2.0","id":1,"method":"toString"}'), /-32601/);
  assert.match(await ask('{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}'), /-32602/);
  assert.match(await ask('{"method":"no.such.Thing"}\0'), /MethodNotFound.*\0$/s);
  assert.match(await ask('{"jsonrpc":"2.0","id":1,"method":"ping"}'), /pong/);
});

test("a client that never reads, or never ends, holds up nobody and is let go", async (t) => {
  lowerLimits(t, { serveStallMs: 300, controlMessageBytes: 1 << 20 });
  let onGone: () => void = () => undefined;
  const gone = new Promise<void>((resolve) => {
    onGone = resolve;
  });
  const path = await startServer(t, () => onGone());
  const deaf = await client(t, path);
  deaf.pause();
  deaf.write('{"jsonrpc":"2.0","id":1,"method":"large"}');
  const silent = await client(t, path);
  assert.equal(await answerOf(path, "ping"), "pong");
  const long = await client(t, path);
  long.write(`{"a":"${"x".repeat(2 << 20)}`);
  await textUntilEnd(long);
  await gone;
  deaf.resume();
  await textUntilEnd(deaf);
  silent.write('{"jsonrpc":"2.0","id":1,"method":"ping"}');
  assert.match(String((await once(silent, "data"))[0]), /pong/);
});

test("more clients than are served are turned away", async (t) => {
  lowerLimits(t, { serveConnections: 3 });
  const path = await startServer(t);
  using first = FdClient.connect(path);
  using second = FdClient.connect(path);
  using third = FdClient.connect(path);
  for (const each of [first, second, third]) assert.equal((await each.call("ping", {})).result, "pong");
  using one = FdClient.connect(path);
  await assert.rejects(one.call("ping", {}), OcifsError);
});

test("more descriptors than a client takes are refused by it", async (t) => {
  lowerLimits(t, { streamFds: 10 });
  const path = await startServer(t);
  using connection = FdClient.connect(path);
  await assert.rejects(connection.call("fds", { count: 11 }), /descriptors/);
});

test("the socket is its owner's, and has one server", async (t) => {
  const path = await startServer(t);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  await rejectsWith(
    FdServer.listen(path, { open: (socket) => new Connection(socket, methods("")), log: silentLog }),
    "busy",
  );
  assert.equal(await answerOf(path, "ping"), "pong");
});

/** A server over a cache that has the sample layer. */
async function serveSample(t: TestContext) {
  const directory = await tempDirectory(t);
  const layer = await makeSampleLayer(directory);
  const cache = join(directory, "cache");
  const made = await runCommand([...programLine("ocifs"), "ls", `file:${layer.blobPath}`, "--cachedir", cache]);
  assert.equal(made.status, 0, made.stderr);
  const path = join(directory, "s");
  const server = await serveCache(cache, path, noMounts, silentLog);
  t.after(() => server[Symbol.asyncDispose]());
  return { directory, layer, path };
}

async function importFrom(target: string, fds: readonly number[], format: StreamFormat, diffId: Digest) {
  await using destination = await Destination.create(target);
  const [stream = -1, ...rest] = fds;
  const input = createReadStream("", { fd: stream, autoClose: false });
  const named = format === "splitfdstream" ? { files: rest } : { directories: rest };
  await importStream({ events: decodeStream(input, format), ...named, diffId, whiteouts: "keep", signal }, destination);
  await destination.commit(false);
  assert.ok((await readFile(join(target, "big"))).equals(sampleBig));
}

test("a layer goes to others by JSON-RPC and by varlink", async (t) => {
  const { directory, layer, path } = await serveSample(t);
  using connection = FdClient.connect(path);
  const oci = "org.composefs.Oci";
  const { features } = (await connection.callVarlink(`${oci}.GetInfo`, {})).result;
  assert.ok((features as string[]).includes("splitdirfdstream-v0"));
  const has = async (diff_id: string) =>
    (await connection.callVarlink(`${oci}.HasLayer`, { handle: 0, diff_id })).result;
  assert.deepEqual(await has(layer.diffId), { present: true });
  assert.deepEqual(await has(`sha256:${"0".repeat(64)}`), { present: false });

  const got = await connection.callVarlink(`${oci}.GetLayer`, { handle: 0, params: { diff_id: layer.diffId } });
  assert.deepEqual(got.result, { dir_count: 1 });
  assert.equal(got.fds.length, 3);
  assert.ok(fstatSync(got.fds[1] ?? -1).isDirectory());
  await importFrom(join(directory, "a"), got.fds, "splitdirfdstream", layer.diffId);
  for (const fd of got.fds) closeSync(fd);

  const split = await connection.call("GetSplitFDStream", { layerId: layer.diffId });
  assert.equal(split.fds.length, 2);
  assert.equal(fstatSync(split.fds[0] ?? -1).size, split.result.streamSize);
  await importFrom(join(directory, "b"), split.fds, "splitfdstream", layer.diffId);
  for (const fd of split.fds) closeSync(fd);

  await assert.rejects(connection.call("GetSplitFDStream", {}), /layerId/);
  await assert.rejects(connection.call("GetSplitFDStream", { layerId: `sha256:${"0".repeat(64)}` }), /no such layer/);
  await assert.rejects(connection.callVarlink(`${oci}.GetLayer`, { params: { diff_id: "x" } }), /InvalidRequest/);
  const none = `sha256:${"0".repeat(64)}`;
  const missing = connection.callVarlink(`${oci}.GetLayer`, { params: { diff_id: none } });
  await assert.rejects(missing, new RegExp(`NoSuchLayer \\{"diff_id":"${none}"`));
  await assert.rejects(connection.call("GetImage", { imageId: "registry.test/none:1" }), /no such image/);
  const { blobs } = (await connection.call("status", {})).result;
  assert.deepEqual(
    (blobs as { digest: string }[]).map(({ digest }) => digest),
    [layer.digest],
  );
  assert.deepEqual(
    (await readdir(join(directory, "cache"))).filter((name) => name.startsWith(".stream")),
    [],
  );
});

test("clients that keep their layers for ever lose the oldest, and a layer that nobody uses can be dropped", async (t) => {
  lowerLimits(t, { serveStreams: 2 });
  const { layer, path } = await serveSample(t);
  using connection = FdClient.connect(path);
  const kept: number[] = [];
  for (let i = 0; i < 4; i++) {
    kept.push(...(await connection.callVarlink("org.composefs.Oci.GetLayer", { diff_id: layer.diffId })).fds);
  }
  assert.equal(kept.length, 12);
  await assert.rejects(connection.call("drop", { digest: layer.digest }), /in use/);
  for (const fd of kept) closeSync(fd);
  // The leases end when the server has seen it.
  const freed = async (): Promise<number> => {
    try {
      return Number((await connection.call("drop", { digest: layer.digest })).result.freedBytes);
    } catch (error) {
      assert.match(String(error), /in use/);
      return await freed();
    }
  };
  assert.ok((await freed()) > sampleBig.length);
});
