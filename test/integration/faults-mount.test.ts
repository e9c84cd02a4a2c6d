import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type FaultMount, type ReadResult, startFaultMount } from "../support/fault-mount.js";
import type { Handler } from "../support/faulty-server.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";
import { requireRootAndFuse } from "../support/requires.js";

const FILE_BYTES = 200_000;

/** What a server may do to a request for a layer's bytes, and what a reader of the mount may see of it. */
const faults: Readonly<Record<string, { readonly make: (server: ImageServer) => Handler; readonly served?: true }>> = {
  "200 for a range": {
    make: (server) => (request, response) => server.serveLayer({ ...request, headers: {} }, response),
    served: true,
  },
  "a body that ends early": {
    make: (server) => (request, response) => {
      const end = response.end.bind(response);
      response.end = ((bytes: Buffer) => {
        // Too little for progress: what is asked for may reach far beyond what is read, and half of it would do.
        response.write(bytes.subarray(0, 100), () => response.destroy());
        return response;
      }) as typeof end;
      server.serveLayer(request, response);
    },
  },
  "a Content-Range of another place": {
    make: (server) => (request, response) => {
      const writeHead = response.writeHead.bind(response);
      response.writeHead = ((status: number, headers: Record<string, unknown>) => {
        const range = String(headers["content-range"]).replace(/bytes (\d+)/, (_, n) => `bytes ${Number(n) + 1}`);
        return writeHead(status, { ...headers, "content-range": range } as never);
      }) as typeof writeHead;
      server.serveLayer(request, response);
    },
  },
  "bytes of another place": {
    make: (server) => (request, response) => {
      const end = response.end.bind(response);
      response.end = ((bytes: Buffer) => end(Buffer.from(bytes).reverse())) as typeof end;
      server.serveLayer(request, response);
    },
  },
  "401 in mid-life": { make: () => status(401) },
  "403": { make: () => status(403) },
  "403 of an expired redirect": {
    make: (server) => {
      let expired = false;
      return (request, response) => {
        if (!request.url.startsWith("/storage")) {
          response.writeHead(307, { location: `http://${server.server.host}/storage/${expired ? "new" : "old"}` });
          response.end();
        } else if (request.url.endsWith("old") && expired) {
          response.writeHead(403).end();
        } else {
          expired = true;
          server.serveLayer(request, response);
        }
      };
    },
    served: true,
  },
  "404": { make: () => status(404) },
  "416": { make: () => status(416) },
  "429": { make: () => status(429, { "retry-after": "1" }) },
  "500": { make: () => status(500) },
  "a reset": { make: () => (_, response) => void response.socket?.resetAndDestroy() },
  "a stall before the head": { make: () => () => undefined },
  "a stall in the body": {
    make: (server) => (request, response) => {
      const end = response.end.bind(response);
      response.end = ((bytes: Buffer) => {
        response.write(bytes.subarray(0, 5000));
        return response;
      }) as typeof end;
      server.serveLayer(request, response);
    },
  },
};

function status(code: number, headers: Record<string, string> = {}): Handler {
  return (_, response) => {
    response.writeHead(code, headers);
    response.end();
  };
}

async function setUp(t: TestContext, files: readonly string[], options: readonly string[]) {
  const fixture = await makeLayerFixture(t, { files: Object.fromEntries(files.map((name) => [name, FILE_BYTES])) });
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  const { tarindexPath, zinfoPath } = fixture.index;
  const mount = await startFaultMount(t, server.reference, [
    `oci.tarindex=${tarindexPath}`,
    `oci.zinfo=${zinfoPath}`,
    ...options,
  ]);
  return { fixture, server, mount };
}

function assertRight(fixture: LayerFixture, name: string, { exitCode, bytes, stderr }: ReadResult): void {
  assert.equal(exitCode, 0, `${name}: ${stderr}`);
  assert.ok(fixture.files.get(name)?.equals(bytes), `${name}: wrong bytes`);
}

/** Right so far, and then an error: what a program that reads in pieces may see. */
function assertFailed(fixture: LayerFixture, name: string, { exitCode, bytes, stderr }: ReadResult): void {
  assert.equal(exitCode, 1, `${name}: read to its end`);
  assert.match(stderr, /Input\/output error/, name);
  assert.ok(fixture.files.get(name)?.subarray(0, bytes.length).equals(bytes), `${name}: wrong bytes before the error`);
}

async function read(mount: FaultMount, name: string): Promise<ReadResult> {
  return await mount.startReader(name).result;
}

test("onerror=eio: right bytes or EIO, and the mount works again afterwards", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const names = Object.keys(faults);
  // A file between each two, so that no span of one is brought by the read of another.
  const files = [...names.flatMap((_, i) => [`file${i}`, `between${i}`]), "end"];
  const { fixture, server, mount } = await setUp(t, files, ["timeout=1s", "onerror=eio"]);
  for (const [i, [name, fault]] of Object.entries(faults).entries()) {
    await t.test(name, async () => {
      // Back to front: who reads on is read ahead for, and would find here what the fault should have kept away.
      const file = `file${names.length - 1 - i}`;
      server.fault = fault.make(server);
      const result = await read(mount, file);
      server.fault = undefined;
      if (fault.served) assertRight(fixture, file, result);
      else assertFailed(fixture, file, result);
      assertRight(fixture, file, await read(mount, file));
    });
  }
  assertRight(fixture, "end", await read(mount, "end"));
  assert.deepEqual((await readdir(mount.directory)).sort(), [...files].sort());
  assert.equal(await mount.stop(), 0, mount.log());
});

test("a mount says since when it is degraded and why, and that it is well again", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { fixture, server, mount } = await setUp(t, ["a", "b", "c"], ["timeout=1s", "onerror=eio"]);
  const { state, problem, degradedSince } = await mount.status();
  assert.deepEqual([state, problem, degradedSince], ["ready", null, null]);
  server.fault = status(404);
  const before = new Date().toISOString();
  assertFailed(fixture, "a", await read(mount, "a"));
  const first = await mount.status();
  assert.equal(first.state, "degraded");
  assert.match(first.problem ?? "", /HTTP 404/);
  assert.ok(
    first.degradedSince !== null && first.degradedSince >= before,
    `${first.degradedSince}, want after ${before}`,
  );
  // It goes on, for another reason: since then all the same.
  server.fault = status(403);
  assertFailed(fixture, "a", await read(mount, "a"));
  const second = await mount.status();
  assert.match(second.problem ?? "", /HTTP 403/);
  assert.equal(second.degradedSince, first.degradedSince);
  server.fault = undefined;
  assertRight(fixture, "a", await read(mount, "a"));
  const last = await mount.status();
  assert.deepEqual([last.state, last.problem, last.degradedSince], ["ready", null, null]);
});

test("onerror=retry: readers wait, and finish when the server is back", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const passing = ["a body that ends early", "429", "500", "401 in mid-life", "a reset", "a stall before the head"];
  const files = passing.flatMap((_, i) => [`file${i}`, `between${i}`]);
  const { fixture, server, mount } = await setUp(t, files, ["timeout=1s", "onerror=retry"]);
  for (const [i, name] of passing.entries()) {
    await t.test(name, async () => {
      server.fault = faults[name]?.make(server);
      // More requests than one series of tries would make before it gives up after a second.
      const tried = server.moreBlobRequests(3);
      const readers = [0, 1, 2].map(() => mount.startReader(`file${i}`));
      await tried;
      server.fault = undefined;
      for (const { result } of readers) assertRight(fixture, `file${i}`, await result);
    });
  }
  assert.equal(await mount.stop(), 0, mount.log());
});

for (const signal of ["SIGINT", "SIGKILL"] as const) {
  test(`${signal} to a reader that waits for a server that stalls`, async (t) => {
    if (!requireRootAndFuse(t)) return;
    const { fixture, server, mount } = await setUp(t, ["a", "b", "c", "d"], ["timeout=1h", "onerror=retry"]);
    assertRight(fixture, "d", await read(mount, "d"));
    server.fault = () => undefined;
    const asked = server.moreBlobRequests(1);
    const leaves = mount.startReader("a");
    await asked;
    leaves.child.kill(signal);
    assert.equal((await leaves.result).signal, signal);
    // What is there is served meanwhile.
    assertRight(fixture, "d", await read(mount, "d"));
    // A daemon that is told to stop does not wait for the server either.
    assert.equal(await mount.stop(), 0, mount.log());
  });
}

test("a reader that left does not take the transfer from those who stay", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { fixture, server, mount } = await setUp(t, ["a", "b"], ["timeout=1h", "onerror=eio"]);
  const held: (() => void)[] = [];
  server.fault = (request, response) => void held.push(() => server.serveLayer(request, response));
  const asked = server.moreBlobRequests(1);
  const leaves = mount.startReader("a");
  const stays = mount.startReader("a");
  await asked;
  leaves.child.kill("SIGKILL");
  await leaves.result;
  server.fault = undefined;
  for (const answer of held) answer();
  assertRight(fixture, "a", await stays.result);
  assertRight(fixture, "b", await read(mount, "b"));
});

test("failed reads leave no descriptors behind", async (t) => {
  if (!requireRootAndFuse(t)) return;
  const { fixture, server, mount } = await setUp(t, ["a", "b", "c"], ["timeout=1s", "onerror=eio"]);
  assertRight(fixture, "c", await read(mount, "c"));
  const before = await mount.openFiles();
  server.fault = status(404);
  for (let i = 0; i < 30; i++) assertFailed(fixture, "a", await read(mount, "a"));
  server.fault = undefined;
  assertRight(fixture, "a", await read(mount, "a"));
  // Connections to the registry come and go; everything else is open once.
  const after = await mount.openFiles();
  assert.ok(after <= before + 10, `${before} open files before, ${after} after`);
  assert.ok((await readdir(join(mount.directory, "."))).length === 3);
});
