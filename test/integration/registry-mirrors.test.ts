/** Mirrors of `hosts.toml` before a registry: who is asked for what, with whose login, and what happens when they fail. */
import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import type { BlobSource } from "../../src/blob/blob-source.js";
import { connect, type RegistryAccess } from "../../src/image/connect.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { rejectsWith } from "../support/errors.js";
import { type FaultyServer, type ReceivedRequest, startFaultyServer } from "../support/faulty-server.js";
import { programLine, runCommand } from "../support/mounted-image.js";
import { startProxy } from "../support/proxy.js";
import { ScriptedRegistry, scriptedRepository } from "../support/scripted-registry.js";
import { tempDirectory } from "../support/temp.js";
import { createCertificate } from "../support/token-server.js";

const platform = parsePlatform("linux/amd64");

class Setup {
  constructor(
    readonly t: TestContext,
    readonly registry: ScriptedRegistry,
    readonly directory: string,
  ) {}

  static async open(t: TestContext): Promise<Setup> {
    const registry = await ScriptedRegistry.start();
    t.after(() => registry[Symbol.asyncDispose]());
    return new Setup(t, registry, await tempDirectory(t));
  }

  /** A server with what the registry has. */
  async mirror(tls?: Parameters<typeof startFaultyServer>[1]): Promise<FaultyServer> {
    const server = await startFaultyServer((request, response) => this.serve(request, response), tls);
    this.t.after(() => server.stop());
    return server;
  }

  serve(request: ReceivedRequest, response: ServerResponse): void {
    this.registry.serve({ ...request, url: request.url.split("?")[0] ?? "" }, response);
  }

  async write(toml: string): Promise<void> {
    const place = join(this.directory, "certs.d", this.registry.host);
    await mkdir(place, { recursive: true });
    await writeFile(join(place, "hosts.toml"), toml);
  }

  async image(access: Partial<RegistryAccess> = {}, selector = ":v1") {
    const reference = parseReference(`${this.registry.host}/${scriptedRepository}${selector}`);
    const hostsDir = join(this.directory, "certs.d");
    const image = await connect(reference, { insecure: true, timeoutMs: 5000, hostsDir, ...access });
    this.t.after(() => image[Symbol.asyncDispose]());
    return image;
  }

  /** Manifest by its tag, config, and all of the layer. */
  async readAll(access: Partial<RegistryAccess> = {}): Promise<void> {
    const image = await this.image(access);
    const resolved = await image.resolve(platform);
    await image.fetchConfig(resolved);
    await using blob = await image.openBlob(this.registry.descriptor);
    assert.ok((await bytesOf(blob)).equals(this.registry.layer));
  }
}

async function bytesOf(blob: BlobSource): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of blob.fetchRange(0, blob.sizeBytes)) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

/** A port that nobody listens at. */
async function deadHost(): Promise<string> {
  const server = await startFaultyServer(() => undefined);
  await server.stop();
  return server.host;
}

const paths = ({ requests }: Pick<FaultyServer, "requests">) =>
  requests.map(({ url }) => url.replace(`/v2/${scriptedRepository}/`, "").replace(/sha256:(.{4}).*?(\?|$)/, "$1$2"));

test("a mirror that has everything is all that is asked, with its headers and the registry's name", async (t) => {
  const setup = await Setup.open(t);
  const mirror = await setup.mirror();
  await setup.write(`[host."http://${mirror.host}"]\n[host."http://${mirror.host}".header]\nx-mirror = ["a", "b"]`);
  await setup.readAll();
  assert.equal(setup.registry.server.requests.length, 0);
  assert.equal(mirror.requests.length, 3);
  for (const { url, headers } of mirror.requests) {
    assert.equal(new URL(url, "http://m").searchParams.get("ns"), setup.registry.host);
    assert.equal(headers["x-mirror"], "a, b");
  }
});

test("mirrors are tried in their order, then the registry; one that is dead is not asked again at once", async (t) => {
  const setup = await Setup.open(t);
  const dead = await deadHost();
  const empty = await setup.mirror();
  empty.handle((_, response) => void response.writeHead(404).end());
  const broken = await setup.mirror();
  broken.handle((_, response) => void response.writeHead(503).end());
  await setup.write([dead, empty.host, broken.host].map((host) => `[host."http://${host}"]\n`).join(""));
  await setup.readAll();
  assert.equal(setup.registry.server.requests.length, 3);
  assert.equal(empty.requests.length, 3, "it answers, and may have the next thing");
  assert.equal(broken.requests.length, 1, "it rests");
  assert.ok(setup.registry.server.requests.every(({ url, headers }) => !url.includes("ns=") && !headers["x-mirror"]));

  setup.registry.server.handle((_, response) => void response.writeHead(404).end());
  const { message } = await rejectsWith((await setup.image()).resolve(platform), "not-found");
  for (const host of [dead, empty.host, broken.host]) assert.ok(message.includes(`mirror ${host}`), message);
});

test("what a server may be asked for is its capabilities", async (t) => {
  const setup = await Setup.open(t);
  const mirror = await setup.mirror();
  await setup.write(`[host."http://${mirror.host}"]\ncapabilities = ["pull"]`);
  await setup.readAll();
  assert.deepEqual(paths(setup.registry.server), ["manifests/v1"]);
  assert.equal(mirror.requests.length, 2);
  await setup.write(`capabilities = ["pull"]\nserver = "http://${setup.registry.host}"`);
  assert.match((await rejectsWith((await setup.image()).resolve(platform), "denied")).message, /capabilities/);
});

for (const scheme of ["Basic", "Bearer"] as const) {
  test(`the registry's login (${scheme}) goes to no mirror, however much it asks`, async (t) => {
    const setup = await Setup.open(t);
    const { registry } = setup;
    const mirror = await setup.mirror();
    const challenge = (host: string) =>
      scheme === "Basic" ? 'Basic realm="r"' : `Bearer realm="http://${host}/token",service="s"`;
    mirror.handle(({ url }, response) => {
      if (url.startsWith("/token")) return void response.end(JSON.stringify({ token: "of-the-mirror" }));
      response.writeHead(401, { "www-authenticate": challenge(mirror.host) }).end();
    });
    registry.server.handle((request, response) => {
      if (request.url.startsWith("/token")) return void response.end(JSON.stringify({ token: "of-the-registry" }));
      if (request.headers.authorization) return registry.serve(request, response);
      response.writeHead(401, { "www-authenticate": challenge(registry.host) }).end();
    });
    await setup.write(`[host."http://${mirror.host}"]`);
    const access = { username: "alice", password: "wonderland" };
    await setup.readAll(access);
    const secret = Buffer.from("alice:wonderland").toString("base64");
    assert.ok(mirror.requests.length > 0);
    for (const { headers } of mirror.requests) {
      assert.ok(headers.authorization === undefined || headers.authorization === "Bearer of-the-mirror");
    }
    const shown = registry.server.requests.map(({ headers }) => headers.authorization);
    assert.ok(shown.includes(`Basic ${secret}`));
    assert.ok(!shown.includes("Bearer of-the-mirror"));
  });
}

test("a mirror's headers do not follow its redirects", async (t) => {
  const setup = await Setup.open(t);
  const store = await setup.mirror();
  const mirror = await setup.mirror();
  mirror.handle(({ url }, response) => void response.writeHead(307, { location: `http://${store.host}${url}` }).end());
  await setup.write(
    `[host."http://${mirror.host}"]\n[host."http://${mirror.host}".header]\nauthorization = "Basic c2VjcmV0"`,
  );
  await setup.readAll();
  assert.ok(mirror.requests.every(({ headers }) => headers.authorization === "Basic c2VjcmV0"));
  assert.equal(store.requests.length, 3);
  assert.ok(store.requests.every(({ headers }) => headers.authorization === undefined));
});

test("a blob that a mirror breaks off is finished by the registry from where it stopped", async (t) => {
  const setup = await Setup.open(t);
  const { layer } = setup.registry;
  const half = limits.progressBytes * 4;
  const mirror = await setup.mirror();
  mirror.handle((_, response) => {
    response.writeHead(200, { "content-length": layer.length });
    response.write(layer.subarray(0, half), () => response.destroy());
  });
  await setup.write(`[host."http://${mirror.host}"]`);
  const image = await setup.image();
  await using blob = await image.openBlob(setup.registry.descriptor);
  assert.ok((await bytesOf(blob)).equals(layer));
  assert.equal(mirror.requests.length, 1);
  const [rest, ...more] = setup.registry.ranges;
  assert.equal(more.length, 0);
  const start = Number(/^bytes=(\d+)-/.exec(rest ?? "")?.[1]);
  assert.ok(start > 0 && start <= half, rest);
});

test("a mirror with other bytes than those asked for is passed over", async (t) => {
  const setup = await Setup.open(t);
  const mirror = await setup.mirror();
  mirror.handle((_, response) => void response.writeHead(200, { "content-length": 2 }).end("{}"));
  await setup.write(`[host."http://${mirror.host}"]\ncapabilities = ["pull"]`);
  const { registry } = setup;
  const image = await setup.image({}, `@${digestOfBytes(registry.manifest)}`);
  const resolved = await image.resolve(platform);
  assert.equal(resolved.manifestDigest, digestOfBytes(registry.manifest));
  await image.fetchConfig(resolved);
  assert.equal(registry.server.requests.length, 2);
});

test("certificates: an authority of its own, none at all, and one to show", async (t) => {
  const setup = await Setup.open(t);
  const certificates = join(setup.directory, "certs.d", setup.registry.host);
  await mkdir(certificates, { recursive: true });
  const own = await createCertificate(certificates, "server");
  await createCertificate(certificates, "client");
  const tls = { key: own.keyPem, cert: own.certificatePem };
  const mirror = await setup.mirror(tls);
  const host = `[host."https://${mirror.host}"]\n`;
  const asked = async (toml: string): Promise<number> => {
    const before = mirror.requests.length;
    await setup.write(host + toml);
    await setup.readAll();
    return mirror.requests.length - before;
  };
  assert.equal(await asked(""), 0, "nobody vouches for it");
  assert.equal(await asked('ca = "server.crt"'), 3);
  assert.equal(await asked("skip_verify = true"), 3);

  const strict = await setup.mirror({
    ...tls,
    ...{ requestCert: true, ca: [own.certificatePem], rejectUnauthorized: true },
  });
  const strictly = async (toml: string) => {
    await setup.write(`[host."https://${strict.host}"]\nca = "server.crt"\n${toml}`);
    await setup.readAll();
    return strict.requests.length;
  };
  assert.equal(await strictly(""), 0, "it wants a certificate");
  assert.equal(await strictly('client = [["server.crt", "server.key"]]'), 3);
});

test("the proxy of ocifs is a mirror for ocifs", async (t) => {
  const setup = await Setup.open(t);
  const proxy = await startProxy(t, [setup.registry.host]);
  // Where ocifs would go without the mirror there is nobody.
  await setup.write(`server = "http://${await deadHost()}"\n[host."${proxy.url}"]\n`);
  await setup.readAll();
  const reference = `${setup.registry.host}/${scriptedRepository}:v1`;
  const args = ["stat", reference, "/", "--insecure", "--cachedir", join(setup.directory, "cache")];
  const hosts = ["--hosts-dir", join(setup.directory, "certs.d")];
  const { stderr } = await runCommand([...programLine("ocifs"), ...args, ...hosts]);
  // The layer is noise and no tar, which only he can say who has read it through the proxy.
  assert.match(stderr, /tar/);
  const before = setup.registry.server.requests.length;
  await setup.readAll();
  const again = paths({ requests: setup.registry.server.requests.slice(before) });
  assert.ok(
    again.every((path) => path === "manifests/v1"),
    `blobs are asked for once: ${again}`,
  );
});
