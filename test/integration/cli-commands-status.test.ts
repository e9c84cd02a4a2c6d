import assert from "node:assert/strict";
import { mkdir, readdir } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { callAllDaemons } from "../../src/daemon/control.js";
import { tempDirectory } from "../support/temp.js";

const listen = (server: Server, path: string) => new Promise<void>((resolve) => server.listen(path, resolve));

test("a daemon that ends while it is asked is no mount any more", async (t) => {
  const directory = await tempDirectory(t);
  const ending = createServer((socket) => {
    ending.close();
    socket.destroy();
  });
  await listen(ending, join(directory, "1.sock"));
  const other = createServer((socket) => socket.resume().end('{"jsonrpc":"2.0","id":1,"result":"here"}\n'));
  t.after(() => other.close());
  await listen(other, join(directory, "2.sock"));
  assert.deepEqual(await callAllDaemons(directory, "status"), { answers: ["here"], failures: [] });
  assert.deepEqual(await readdir(directory), ["2.sock"]);
});

test("a daemon that answers with an error or with nonsense is an error", async (t) => {
  const directory = await tempDirectory(t);
  for (const [answer, code] of [
    ['{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"broken inside"}}\n', "io"],
    ["no JSON\n", "corrupt"],
  ] as const) {
    const server = createServer((socket) => socket.resume().end(answer));
    await listen(server, join(directory, "1.sock"));
    const { answers, failures } = await callAllDaemons(directory, "status");
    assert.deepEqual([answers, failures.map((failure) => failure.code)], [[], [code]]);
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }
});

test("no runtime directory and an empty one mean no mounts", async (t) => {
  const directory = await tempDirectory(t);
  const nobody = { answers: [], failures: [] };
  assert.deepEqual(await callAllDaemons(join(directory, "none"), "status"), nobody);
  await mkdir(join(directory, "empty"));
  assert.deepEqual(await callAllDaemons(join(directory, "empty"), "status"), nobody);
});
