import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { repositoryRoot } from "../support/fixtures.js";
import { ImageServer } from "../support/image-server.js";
import { type LayerFixture, makeLayerFixture } from "../support/layer-fixture.js";

const MIB = 1 << 20;

interface Reader {
  kill(): void;
  /** Its exit code, and what it wrote to standard output. */
  readonly result: Promise<{ code: number | null; bytes: Buffer; stderr: string }>;
}

/** `ocifs cat` of one file: a process of its own that shares only the cache directory. */
function startCat(t: TestContext, fixture: LayerFixture, server: ImageServer, name: string): Reader {
  const { tarindexPath, zinfoPath } = fixture.index;
  const program = join(repositoryRoot, "dist", "src", "cli", "ocifs.js");
  const args = ["cat", server.reference, name, "--insecure", "--tarindex", tarindexPath, "--zinfo", zinfoPath];
  const child = spawn(process.execPath, [program, ...args, "--cachedir", join(fixture.directory, "cache")], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.after(() => void child.kill("SIGKILL"));
  const chunks: Buffer[] = [];
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const result = once(child, "close").then(([code]) => ({
    code: code as number | null,
    bytes: Buffer.concat(chunks),
    stderr,
  }));
  return { kill: () => void child.kill("SIGKILL"), result };
}

/** How often each byte of the layer was asked for. */
function timesAsked(server: ImageServer, sizeBytes: number): Uint8Array {
  const counts = new Uint8Array(sizeBytes);
  for (const { headers, url } of server.server.requests) {
    const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "");
    if (!range || !url.includes("/blobs/")) continue;
    for (let at = Number(range[1]); at <= Number(range[2]); at++) counts[at] = (counts[at] ?? 0) + 1;
  }
  return counts;
}

async function setUp(t: TestContext) {
  const fixture = await makeLayerFixture(t, {
    files: { big: 6 * MIB, other: 2 * MIB },
    random: true,
    spanSizeBytes: MIB,
  });
  const server = await ImageServer.start(fixture);
  t.after(() => server[Symbol.asyncDispose]());
  return { fixture, server };
}

function assertRight(fixture: LayerFixture, name: string, result: Awaited<Reader["result"]>): void {
  assert.equal(result.code, 0, result.stderr);
  assert.ok(fixture.files.get(name)?.equals(result.bytes), `${name}: wrong bytes`);
}

test("three processes that read a cold layer at once fetch each byte once", async (t) => {
  const { fixture, server } = await setUp(t);
  const names = ["big", "big", "other"];
  const readers = names.map((name) => startCat(t, fixture, server, name));
  for (const [i, { result }] of readers.entries()) assertRight(fixture, names[i] ?? "", await result);
  // Of "big", which does not shrink, up to its last span: what a reader has guessed beyond its end and not got when it ended comes again.
  const times = timesAsked(server, fixture.gz.length).subarray(0, 5 * MIB);
  assert.deepEqual([...new Set(times)], [1]);
});

test("a process that is killed while it fetches: another goes on where it stopped", async (t) => {
  const { fixture, server } = await setUp(t);
  // Half of the first answer, then silence.
  server.fault = (request, response) => {
    server.fault = undefined;
    const end = response.end.bind(response);
    response.end = ((bytes: Buffer) => {
      response.write(bytes.subarray(0, bytes.length >> 1));
      return response;
    }) as typeof end;
    server.serveLayer(request, response);
  };
  const asked = server.moreBlobRequests(1);
  const killed = startCat(t, fixture, server, "big");
  await asked;
  const manifests = () => server.server.requests.filter(({ url }) => url.includes("/manifests/")).length;
  const before = manifests();
  const stays = startCat(t, fixture, server, "big");
  // The other one is at work as well, and finds the range taken.
  await server.moreRequests(() => manifests() > before);
  killed.kill();
  assert.equal((await killed.result).code, null);
  assertRight(fixture, "big", await stays.result);
  assertRight(fixture, "other", await startCat(t, fixture, server, "other").result);
});

test("killed again and again, readers leave a cache that is right", async (t) => {
  const { fixture, server } = await setUp(t);
  for (let i = 1; i <= 5; i++) {
    const asked = server.moreBlobRequests(1);
    const reader = startCat(t, fixture, server, "big");
    await Promise.race([asked, reader.result]);
    reader.kill();
    await reader.result;
  }
  assertRight(fixture, "big", await startCat(t, fixture, server, "big").result);
  assertRight(fixture, "other", await startCat(t, fixture, server, "other").result);
});
