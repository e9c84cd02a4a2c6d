/** The stream over HTTP, between processes, and on a disk that is really full. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, readFile } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { openRegistryImage } from "../../src/blob/registry-image.js";
import { CompressedFile } from "../../src/cache/compressed-file.js";
import { InFlightStream } from "../../src/layer/in-flight-stream.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parseReference } from "../../src/oci/reference.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { type FaultyServer, type ReceivedRequest, serveBytes, startFaultyServer } from "../support/faulty-server.js";
import { deferred, MemoryBlob } from "../support/memory-blob.js";
import { runProgram } from "../support/process.js";
import { skipOrFail } from "../support/requires.js";
import { tempDirectory } from "../support/temp.js";

const MIB = 1 << 20;
const program = fileURLToPath(new URL("../support/in-flight-process.js", import.meta.url));

interface BlobServer {
  readonly server: FaultyServer;
  readonly bytes: Buffer;
  readonly path: string;
}

async function startBlobServer(t: TestContext, sizeBytes: number): Promise<BlobServer> {
  const bytes = randomBytes(sizeBytes);
  const server = await startFaultyServer((request, response) => serveBytes(bytes, request, response));
  t.after(() => server.stop());
  return { server, bytes, path: join(await tempDirectory(t), "compressed") };
}

interface Peer {
  readonly child: ChildProcess;
  /** Resolves once it has followed this far. */
  at(bytes: number): Promise<void>;
  /** What it said last, after it ended. */
  readonly ended: Promise<string>;
}

function startPeer(t: TestContext, { server, bytes, path }: BlobServer): Peer {
  const args = [program, server.host, "team/app", digestOfBytes(bytes), String(bytes.length), path];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const exit = once(child, "exit");
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await exit;
  });
  let last = "";
  let position = 0;
  const waiting = new Map<() => void, number>();
  const lines = createInterface({ input: child.stdout });
  lines.on("line", (line) => {
    last = line;
    if (line.startsWith("at ")) position = Number(line.slice(3));
    for (const [go, bytes] of waiting) if (position >= bytes) go();
  });
  const closed = once(lines, "close");
  return {
    child,
    at: async (bytes) => {
      if (position >= bytes) return;
      const reached = deferred();
      waiting.set(reached.resolve, bytes);
      const outcome = await Promise.race([reached.promise.then(() => "reached"), closed.then(() => "ended")]);
      assert.equal(outcome, "reached", `the process ended at ${position}: ${last}`);
    },
    ended: Promise.all([exit, closed]).then(() => last),
  };
}

/** Bytes of bodies that were asked for. */
function askedFor({ server, bytes }: BlobServer): number {
  return server.requests.reduce((sum, { headers }) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? "");
    return sum + (range ? Number(range[2]) + 1 - Number(range[1]) : bytes.length);
  }, 0);
}

/** Sends [0, stop) of the blob and holds the rest back until `release`. */
function holdAfter(bytes: Buffer, stop: number) {
  const release = deferred();
  const handler = (request: ReceivedRequest, response: ServerResponse) => {
    if (request.headers.range !== undefined) return serveBytes(bytes, request, response);
    response.writeHead(200, { "content-length": bytes.length });
    response.write(bytes.subarray(0, stop));
    void release.promise.then(() => response.end(bytes.subarray(stop)));
  };
  return { handler, release };
}

test("two processes follow one download", async (t) => {
  const made = await startBlobServer(t, 40 * MIB);
  const { handler, release } = holdAfter(made.bytes, 5 * MIB);
  made.server.handle(handler);
  const first = startPeer(t, made);
  await first.at(4 * MIB);
  const second = startPeer(t, made);
  await second.at(4 * MIB);
  release.resolve();
  const said = await Promise.all([first.ended, second.ended]);
  assert.deepEqual(said, [`complete ${digestOfBytes(made.bytes)}`, `complete ${digestOfBytes(made.bytes)}`]);
  assert.ok((await readFile(made.path)).equals(made.bytes));
  assert.ok(
    askedFor(made) < 56 * MIB,
    `${askedFor(made)} bytes were asked for, in ${made.server.requests.length} requests`,
  );
});

test("a process that is killed is taken over from, where it stopped", async (t) => {
  const made = await startBlobServer(t, 40 * MIB);
  const { handler } = holdAfter(made.bytes, 20 * MIB);
  made.server.handle(handler);
  const first = startPeer(t, made);
  await first.at(19 * MIB);
  const second = startPeer(t, made);
  await second.at(19 * MIB);
  first.child.kill("SIGKILL");
  assert.equal(await second.ended, `complete ${digestOfBytes(made.bytes)}`);
  const [, ...rest] = made.server.requests;
  const starts = rest.map(({ headers }) => Number(/^bytes=(\d+)-/.exec(headers.range ?? "")?.[1] ?? 0));
  assert.ok(starts.length > 0 && starts.every((start) => start >= 19 * MIB), `asked again from ${starts}`);
});

async function openStream(t: TestContext, { server, bytes, path }: BlobServer) {
  const image = openRegistryImage(parseReference(`${server.host}/team/app:v1`), {
    insecure: true,
    retryBaseDelayMs: 1,
  });
  const source = await image.openBlob({
    mediaType: mediaTypes.ociLayerTar,
    digest: digestOfBytes(bytes),
    sizeBytes: bytes.length,
    annotations: new Map(),
  });
  const file = await CompressedFile.open(path, bytes.length);
  const stream = InFlightStream.open({ source, file });
  t.after(async () => {
    await stream[Symbol.asyncDispose]();
    await file[Symbol.asyncDispose]();
    await source[Symbol.asyncDispose]();
    await image[Symbol.asyncDispose]();
  });
  return stream;
}

test("a server without ranges is streamed in one plain request", async (t) => {
  const made = await startBlobServer(t, 30 * MIB);
  made.server.handle((_request, response) => {
    response.writeHead(200, { "content-length": made.bytes.length });
    response.end(made.bytes);
  });
  const stream = await openStream(t, made);
  const followers = await Promise.all([collect(stream.follow()), collect(stream.follow({ from: 29 * MIB }))]);
  assert.ok(followers[0]?.equals(made.bytes));
  assert.ok(followers[1]?.equals(made.bytes.subarray(29 * MIB)));
  const plain = made.server.requests.filter(({ headers }) => headers.range === undefined);
  assert.equal(plain.length, 1);
});

test("a connection that breaks again and again is resumed", async (t) => {
  const made = await startBlobServer(t, 8 * MIB);
  made.server.handle((request, response) => {
    const start = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const range = { "content-range": `bytes ${start}-${made.bytes.length - 1}/${made.bytes.length}` };
    const headers = { "content-length": made.bytes.length - start, ...(start > 0 ? range : {}) };
    response.writeHead(start > 0 ? 206 : 200, headers);
    const end = Math.min(made.bytes.length, start + 700_000);
    if (end === made.bytes.length) response.end(made.bytes.subarray(start, end));
    else response.write(made.bytes.subarray(start, end), () => response.destroy());
  });
  const stream = await openStream(t, made);
  assert.ok((await collect(stream.follow())).equals(made.bytes));
  assert.ok(made.server.requests.length > 10);
});

test("a disk that is full ends the stream with no-space; with room it goes on", async (t) => {
  if (process.geteuid?.() !== 0) return skipOrFail(t, "it mounts a tmpfs, which needs root; run scripts/test as root");
  const mountpoint = join(await tempDirectory(t), "small");
  await mkdir(mountpoint);
  await runProgram("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", mountpoint]);
  const blob = new MemoryBlob(randomBytes(4 * MIB));
  const file = await CompressedFile.open(join(mountpoint, "compressed"), blob.sizeBytes);
  const stream = InFlightStream.open({ source: blob, file });
  try {
    await Promise.all([rejectsWith(stream.finish(), "no-space"), rejectsWith(collect(stream.follow()), "no-space")]);
    assert.equal(stream.frontierBytes % 4096, 0);
    assert.ok(stream.frontierBytes > MIB && stream.frontierBytes < 3 * MIB, `${stream.frontierBytes}`);
    const kept = stream.frontierBytes;
    await runProgram("mount", ["-o", "remount,size=6m", mountpoint]);
    blob.requests.length = 0;
    assert.deepEqual(await collect(stream.follow()), Buffer.from(blob.bytes));
    assert.deepEqual(blob.requests, [{ offset: kept, length: blob.sizeBytes - kept }]);
  } finally {
    await stream[Symbol.asyncDispose]();
    await file[Symbol.asyncDispose]();
    await runProgram("umount", [mountpoint]);
  }
});
