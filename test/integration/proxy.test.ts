/** The proxy before a registry that does what its script says. */
import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { type Digest, digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { type FaultyServer, type ReceivedRequest, serveBytes, startFaultyServer } from "../support/faulty-server.js";
import { lowerLimits } from "../support/lowered-limits.js";
import { deferred } from "../support/memory-blob.js";
import { content, openRequest, request, startProxy } from "../support/proxy.js";

const MIB = 1 << 20;

interface Origin {
  readonly server: FaultyServer;
  readonly blobs: Map<string, Buffer>;
  /** GETs of blobs. */
  readonly fetches: () => readonly ReceivedRequest[];
}

/** Repositories and their content by `/v2/` path; `onBlob` may answer a GET of a blob itself. */
async function startOrigin(
  t: TestContext,
  blobs: Record<string, Buffer>,
  onBlob?: (bytes: Buffer, request: ReceivedRequest, response: ServerResponse) => boolean,
): Promise<Origin> {
  const known = new Map(Object.entries(blobs));
  const server = await startFaultyServer((received, response) => {
    const [path = ""] = received.url.split("?");
    const bytes = known.get(path);
    if (bytes === undefined) {
      response.writeHead(404, { "content-type": "application/json" });
      response.end(JSON.stringify({ errors: [{ code: "BLOB_UNKNOWN", message: "not here" }] }));
    } else if (path.includes("/manifests/")) {
      response.writeHead(200, {
        "content-type": mediaTypes.ociManifest,
        "content-length": bytes.length,
        "docker-content-digest": digestOfBytes(bytes),
      });
      response.end(received.method === "HEAD" ? undefined : bytes);
    } else if (received.method === "HEAD") {
      response.writeHead(200, { "content-length": bytes.length });
      response.end();
    } else if (!onBlob?.(bytes, received, response)) serveBytes(bytes, received, response);
  });
  t.after(() => server.stop());
  const fetches = () => server.requests.filter(({ method, url }) => method === "GET" && url.includes("/blobs/"));
  return { server, blobs: known, fetches };
}

function pathOf(repository: string, digest: Digest): string {
  return `/v2/${repository}/blobs/${digest}`;
}

async function oneBlob(t: TestContext, bytes: Buffer, onBlob?: Parameters<typeof startOrigin>[2]) {
  const path = pathOf("team/app", digestOfBytes(bytes));
  return { path, ...(await startOrigin(t, { [path]: bytes }, onBlob)) };
}

/** Sends the first half, and the rest when told. */
function halved() {
  const release = deferred();
  const onBlob = (bytes: Buffer, received: ReceivedRequest, response: ServerResponse) => {
    if (received.headers.range !== undefined) return false;
    response.writeHead(200, { "content-length": bytes.length });
    response.write(bytes.subarray(0, bytes.length / 2));
    void release.promise.then(() => response.end(bytes.subarray(bytes.length / 2)));
    return true;
  };
  return { onBlob, release };
}

test("many clients share one download, get bytes as they land, and one that stalls holds nobody up", async (t) => {
  const bytes = content(4 * MIB);
  const { onBlob, release } = halved();
  const origin = await oneBlob(t, bytes, onBlob);
  const proxy = await startProxy(t, [origin.server.host]);
  const url = `${proxy.url}${origin.path}`;
  const stalled = await openRequest(url);
  const started = await Promise.all(Array.from({ length: 8 }, () => openRequest(url)));
  const bodies = started.map(async (response) => {
    assert.equal(response.statusCode, 200);
    const chunks: Buffer[] = [];
    // The first byte comes while the upstream still holds back half of the blob.
    for await (const chunk of response) {
      chunks.push(chunk as Buffer);
      release.resolve();
    }
    return Buffer.concat(chunks);
  });
  for (const body of await Promise.all(bodies)) assert.ok(body.equals(bytes));
  assert.equal(origin.fetches().length, 1);
  stalled.destroy();
});

test("the download goes on when its client has left, and the next one gets it from the cache", async (t) => {
  const bytes = content(MIB);
  const { onBlob, release } = halved();
  const origin = await oneBlob(t, bytes, onBlob);
  const proxy = await startProxy(t, [origin.server.host]);
  const url = `${proxy.url}${origin.path}`;
  const first = await openRequest(url);
  first.destroy();
  release.resolve();
  for (let i = 0; i < 3; i++) assert.ok((await request(url)).body.equals(bytes));
  assert.equal(origin.fetches().length, 1);
});

test("an upstream that cuts is resumed where it stopped, and its clients notice nothing", async (t) => {
  const bytes = content(4 * MIB);
  let cuts = 0;
  const origin = await oneBlob(t, bytes, (all, received, response) => {
    if (received.headers.range !== undefined) return false;
    cuts++;
    response.writeHead(200, { "content-length": all.length });
    response.write(all.subarray(0, all.length / 2), () => setImmediate(() => response.destroy()));
    return true;
  });
  const proxy = await startProxy(t, [origin.server.host]);
  const url = `${proxy.url}${origin.path}`;
  const got = await Promise.all(Array.from({ length: 4 }, () => request(url)));
  for (const { complete, body } of got) {
    assert.ok(complete);
    assert.equal(digestOfBytes(body), digestOfBytes(bytes));
  }
  assert.equal(cuts, 1);
  const [, ...resumed] = origin.fetches().map(({ headers }) => Number(/^bytes=(\d+)-/.exec(headers.range ?? "")?.[1]));
  assert.ok(resumed.length > 0 && resumed.every((start) => start > MIB), `resumed at ${resumed}`);
});

test("when the upstream stays away, its clients' connections are cut, and the next client gets all of it", async (t) => {
  const bytes = content(4 * MIB);
  let broken = true;
  const origin = await oneBlob(t, bytes, (all, received, response) => {
    if (!broken) return false;
    if (received.headers.range !== undefined) {
      response.destroy();
      return true;
    }
    response.writeHead(200, { "content-length": all.length });
    response.write(all.subarray(0, all.length / 2), () => setImmediate(() => response.destroy()));
    return true;
  });
  const proxy = await startProxy(t, [origin.server.host], { client: { timeoutMs: 200 } });
  const url = `${proxy.url}${origin.path}`;
  const got = await Promise.all(Array.from({ length: 4 }, () => request(url)));
  for (const { status, complete, body } of got) {
    assert.ok(!complete || status === 502, `a clean end with ${status} after ${body.length} bytes`);
    assert.ok(body.length < bytes.length);
  }
  assert.ok(got.some(({ status }) => status === 200));
  broken = false;
  assert.ok((await request(url)).body.equals(bytes));
});

test("a blob with another digest is never completed, and nothing of it is kept", async (t) => {
  const bytes = content(MIB);
  let wrong = true;
  const origin = await oneBlob(t, bytes, (all, received, response) => {
    if (wrong) serveBytes(Buffer.from(all).fill(0, all.length - 10), received, response);
    return wrong;
  });
  const proxy = await startProxy(t, [origin.server.host]);
  const url = `${proxy.url}${origin.path}`;
  const got = await request(url);
  assert.equal(got.status, 200);
  assert.equal(got.complete, false);
  assert.ok(got.body.length < bytes.length);
  wrong = false;
  assert.ok((await request(url)).body.equals(bytes));
});

test("a blob is served in a repository only if the upstream has it there", async (t) => {
  const bytes = content(300_000);
  const origin = await oneBlob(t, bytes);
  const proxy = await startProxy(t, [origin.server.host]);
  assert.equal((await request(`${proxy.url}${origin.path}`)).status, 200);
  const other = await request(`${proxy.url}${pathOf("team/other", digestOfBytes(bytes))}`);
  assert.equal(other.status, 404);
  assert.equal(JSON.parse(other.body.toString()).errors[0].code, "BLOB_UNKNOWN");
});

test("ranges, HEAD, empty blobs and blobs of just a chunk", async (t) => {
  const bytes = content(2 * (128 << 10));
  const empty = Buffer.alloc(0);
  const [path, emptyPath] = [pathOf("a/b", digestOfBytes(bytes)), pathOf("a/b", digestOfBytes(empty))];
  const origin = await startOrigin(t, { [path]: bytes, [emptyPath]: empty });
  const proxy = await startProxy(t, [origin.server.host]);
  const ask = (range: string, headers = {}) => request(`${proxy.url}${path}`, { headers: { range, ...headers } });
  const size = bytes.length;
  const cases: [range: string, begin: number, end: number][] = [
    ["bytes=0-0", 0, 1],
    ["bytes=1000-70000", 1000, 70_001],
    [`bytes=${size - 5}-`, size - 5, size],
    [`bytes=${size - 5}-${size + 100}`, size - 5, size],
    ["bytes=-7", size - 7, size],
    [`bytes=-${size * 2}`, 0, size],
  ];
  for (const [range, begin, end] of cases) {
    const got = await ask(range);
    assert.equal(got.status, 206, range);
    assert.equal(got.headers["content-range"], `bytes ${begin}-${end - 1}/${size}`);
    assert.ok(got.body.equals(bytes.subarray(begin, end)), range);
  }
  for (const range of [`bytes=${size}-`, "bytes=-0", `bytes=${size + 5}-${size + 6}`]) {
    const got = await ask(range);
    assert.deepEqual([got.status, got.headers["content-range"]], [416, `bytes */${size}`], range);
  }
  for (const range of ["bytes=0-1,5-6", "items=0-1", "bytes=9-3", "bytes=-"]) {
    assert.deepEqual([(await ask(range)).status, (await ask(range)).body.length], [200, size], range);
  }
  const etag = `"${digestOfBytes(bytes)}"`;
  assert.equal((await ask("bytes=0-0", { "if-range": etag })).status, 206);
  assert.equal((await ask("bytes=0-0", { "if-range": '"another"' })).status, 200);
  const head = await request(`${proxy.url}${path}`, { method: "HEAD" });
  assert.equal(head.headers["content-length"], String(size));
  assert.equal(head.headers["docker-content-digest"], digestOfBytes(bytes));
  assert.equal(head.headers["accept-ranges"], "bytes");
  const nothing = await request(`${proxy.url}${emptyPath}`);
  assert.deepEqual([nothing.status, nothing.body.length, nothing.complete], [200, 0, true]);
  assert.equal((await request(`${proxy.url}${emptyPath}`, { headers: { range: "bytes=0-" } })).status, 416);
});

test("a range far ahead is answered before what lies in front of it has come", async (t) => {
  const bytes = content(24 * MIB);
  const { onBlob, release } = halved();
  const origin = await oneBlob(t, bytes, onBlob);
  const proxy = await startProxy(t, [origin.server.host]);
  const url = `${proxy.url}${origin.path}`;
  const whole = request(url);
  const last = await request(url, { headers: { range: `bytes=${bytes.length - 100}-${bytes.length - 1}` } });
  assert.ok(last.body.equals(bytes.subarray(-100)));
  release.resolve();
  assert.ok((await whole).body.equals(bytes));
});

test("manifests are kept by digest; a tag is asked for each time", async (t) => {
  const manifest = (n: number) => {
    const descriptor = (mediaType: string) => ({ mediaType, digest: digestOfBytes(Buffer.from(String(n))), size: 1 });
    const [config, layers] = [descriptor(mediaTypes.ociConfig), [descriptor(mediaTypes.ociLayerGzip)]];
    return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers }));
  };
  const [one, two] = [manifest(1), manifest(2)];
  const origin = await startOrigin(t, {
    "/v2/a/b/manifests/v1": one,
    [`/v2/a/b/manifests/${digestOfBytes(one)}`]: one,
  });
  const proxy = await startProxy(t, [origin.server.host]);
  const gets = () => origin.server.requests.filter(({ method }) => method === "GET").length;
  const first = await request(`${proxy.url}/v2/a/b/manifests/v1`);
  assert.ok(first.body.equals(one));
  assert.equal(first.headers["docker-content-digest"], digestOfBytes(one));
  assert.equal(first.headers["content-type"], mediaTypes.ociManifest);
  await request(`${proxy.url}/v2/a/b/manifests/v1`);
  const head = await request(`${proxy.url}/v2/a/b/manifests/${digestOfBytes(one)}`, { method: "HEAD" });
  assert.deepEqual([head.status, head.headers["content-length"]], [200, String(one.length)]);
  assert.equal(gets(), 1);
  assert.equal((await request(`${proxy.url}/v2/a/c/manifests/${digestOfBytes(one)}`)).status, 404);
  origin.blobs.set("/v2/a/b/manifests/v1", two);
  assert.ok((await request(`${proxy.url}/v2/a/b/manifests/v1`)).body.equals(two));
});

test("what is asked wrongly is refused as the specification says", async (t) => {
  const origin = await startOrigin(t, {});
  const proxy = await startProxy(t, [origin.server.host]);
  const cases: [method: string, path: string, status: number, code: string][] = [
    ["POST", "/v2/a/b/blobs/uploads/", 405, "UNSUPPORTED"],
    ["DELETE", "/v2/a/b/manifests/v1", 405, "UNSUPPORTED"],
    ["GET", "/v2/a/b/blobs/sha256:12", 400, "DIGEST_INVALID"],
    ["GET", "/v2/A/b/manifests/v1", 400, "NAME_INVALID"],
    ["GET", "/v2/a//b/manifests/v1", 400, "NAME_INVALID"],
    ["GET", "/v2/a/%zz/manifests/v1", 400, "NAME_INVALID"],
    ["GET", "/v2/a/b/manifests/v1", 404, "MANIFEST_UNKNOWN"],
    ["GET", "/v2/a/b/manifests/v1?ns=elsewhere.example", 404, "NAME_UNKNOWN"],
    ["GET", "/v2/a/b/tags/list", 404, "NAME_UNKNOWN"],
    ["GET", "/", 404, "NAME_UNKNOWN"],
  ];
  for (const [method, path, status, code] of cases) {
    const got = await request(`${proxy.url}${path}`, { method });
    assert.deepEqual([got.status, JSON.parse(got.body.toString()).errors[0].code], [status, code], `${method} ${path}`);
  }
  const base = await request(`${proxy.url}/v2/`);
  assert.deepEqual([base.status, base.headers["docker-distribution-api-version"]], [200, "registry/2.0"]);
});

test("several upstreams are told apart by ns, and pages of tags lead back to the proxy", async (t) => {
  const origins = await Promise.all(
    ["one", "two"].map(async (name) => {
      const server = await startFaultyServer((received, response) => {
        const link = `<http://${server.host}/v2/a/tags/list?n=1&last=${name}>; rel="next"`;
        response.writeHead(200, { "content-type": "application/json", link });
        response.end(JSON.stringify({ name: "a", tags: [name], asked: received.url }));
      });
      t.after(() => server.stop());
      return server;
    }),
  );
  const [one, two] = origins.map(({ host }) => host);
  const proxy = await startProxy(t, [one ?? "", two ?? ""]);
  const first = await request(`${proxy.url}/v2/a/tags/list?n=1`);
  assert.deepEqual(JSON.parse(first.body.toString()), { name: "a", tags: ["one"], asked: "/v2/a/tags/list?n=1" });
  assert.equal(first.headers.link, '</v2/a/tags/list?n=1&last=one>; rel="next"');
  const second = await request(`${proxy.url}/v2/a/tags/list?n=1&ns=${encodeURIComponent(two ?? "")}`);
  assert.deepEqual(JSON.parse(second.body.toString()).tags, ["two"]);
  const next = await request(`${proxy.url}${/<([^>]+)>/.exec(String(second.headers.link))?.[1]}`);
  assert.deepEqual(JSON.parse(next.body.toString()).tags, ["two"]);
});

test("with forwarded logins every client is judged by its own", async (t) => {
  const bytes = content(300_000);
  const path = pathOf("team/app", digestOfBytes(bytes));
  const challenge = 'Bearer realm="https://tokens.example/token",service="s"';
  const server = await startFaultyServer((received, response) => {
    if (received.headers.authorization !== "Bearer good") {
      response.writeHead(401, { "www-authenticate": challenge }).end();
    } else if (received.url === "/v2/") response.writeHead(200).end();
    else if (received.method === "HEAD") response.writeHead(200, { "content-length": bytes.length }).end();
    else serveBytes(bytes, received, response);
  });
  t.after(() => server.stop());
  const proxy = await startProxy(t, [server.host], { forwardsLogins: true });
  const as = (authorization?: string) => (authorization === undefined ? {} : { headers: { authorization } });
  assert.equal((await request(`${proxy.url}/v2/`, as("Bearer good"))).status, 200);
  assert.ok((await request(`${proxy.url}${path}`, as("Bearer good"))).body.equals(bytes));
  for (const header of [undefined, "Bearer bad"]) {
    for (const url of [`${proxy.url}/v2/`, `${proxy.url}${path}`]) {
      const got = await request(url, as(header));
      assert.deepEqual([got.status, got.headers["www-authenticate"]], [401, challenge]);
    }
  }
  // Where the proxy's login speaks for all, a client has nothing to answer.
  const own = await startProxy(t, [server.host], { client: { credentials: { find: async () => undefined } } });
  server.handle((_received, response) => void response.writeHead(401, { "www-authenticate": "Basic realm=x" }).end());
  const refused = await request(`${own.url}${path}`, as("Bearer good"));
  assert.deepEqual([refused.status, refused.headers["www-authenticate"]], [403, undefined]);
});

test("without room in the cache blobs are passed on, checked all the same", async (t) => {
  const bytes = content(3 * MIB);
  const origin = await oneBlob(t, bytes);
  const proxy = await startProxy(t, [origin.server.host], { cacheLimitBytes: MIB });
  assert.ok((await request(`${proxy.url}${origin.path}`)).body.equals(bytes));
  origin.server.handle((received, response) => {
    if (received.method === "HEAD") response.writeHead(200, { "content-length": bytes.length }).end();
    else serveBytes(Buffer.from(bytes).fill(1, 0, 10), received, response);
  });
  assert.equal((await request(`${proxy.url}${origin.path}`)).complete, false);
});

test("a client that takes nothing loses its connection, and bodies under way are bounded", async (t) => {
  lowerLimits(t, { proxyStallMs: 300, proxyStreams: 1 });
  const bytes = content(24 * MIB);
  const origin = await oneBlob(t, bytes);
  const proxy = await startProxy(t, [origin.server.host]);
  const url = `${proxy.url}${origin.path}`;
  const stalled = await openRequest(url);
  const refused = await request(url);
  assert.deepEqual([refused.status, refused.headers["retry-after"]], [429, "1"]);
  assert.equal(JSON.parse(refused.body.toString()).errors[0].code, "TOOMANYREQUESTS");
  for (;;) {
    const again = await request(url);
    if (again.status === 429) continue;
    assert.ok(again.body.equals(bytes));
    break;
  }
  stalled.on("error", () => undefined);
  stalled.resume();
  await new Promise((resolve) => stalled.once("close", resolve));
  assert.equal(stalled.complete, false);
});

test("connections are bounded", async (t) => {
  lowerLimits(t, { proxyConnections: 1 });
  const { onBlob, release } = halved();
  const bytes = content(MIB);
  const origin = await oneBlob(t, bytes, onBlob);
  const proxy = await startProxy(t, [origin.server.host]);
  const first = await openRequest(`${proxy.url}${origin.path}`);
  await assert.rejects(request(`${proxy.url}/v2/`));
  first.destroy();
  release.resolve();
});

test("a request whose head does not end is given up", async (t) => {
  lowerLimits(t, { proxyRequestMs: 100 });
  const origin = await startOrigin(t, {});
  const proxy = await startProxy(t, [origin.server.host]);
  const socket = connect(Number(new URL(proxy.url).port), "127.0.0.1");
  socket.write("GET /v2/ HTTP/1.1\r\nHost: x\r\n");
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  assert.match(Buffer.concat(chunks).toString(), /^HTTP\/1\.1 408 /);
});

test("what was confirmed is remembered for a bounded number of blobs", async (t) => {
  lowerLimits(t, { proxyConfirmations: 1 });
  const blobs = [content(1000), content(1000)];
  const paths = blobs.map((bytes) => pathOf("a/b", digestOfBytes(bytes)));
  const origin = await startOrigin(t, Object.fromEntries(paths.map((path, i) => [path, blobs[i] as Buffer])));
  const proxy = await startProxy(t, [origin.server.host]);
  for (const path of [...paths, ...paths, paths[1]]) await request(`${proxy.url}${path}`, { method: "HEAD" });
  assert.equal(origin.server.requests.length, 4);
});

test("stopping lets a running answer finish within the time it is given, and cuts it after that", async (t) => {
  for (const drainMs of [60_000, 0]) {
    const { onBlob, release } = halved();
    const bytes = content(MIB);
    const origin = await oneBlob(t, bytes, onBlob);
    const proxy = await startProxy(t, [origin.server.host]);
    const running = await openRequest(`${proxy.url}${origin.path}`);
    const stopped = proxy.stop(drainMs);
    await assert.rejects(request(`${proxy.url}/v2/`));
    if (drainMs > 0) release.resolve();
    const chunks: Buffer[] = [];
    const read = async () => {
      for await (const chunk of running) chunks.push(chunk as Buffer);
    };
    if (drainMs > 0) await read();
    else await assert.rejects(read());
    await stopped;
    assert.equal(Buffer.concat(chunks).equals(bytes), drainMs > 0);
    release.resolve();
  }
});
