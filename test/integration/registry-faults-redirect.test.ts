import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { openRegistryImage } from "../../src/blob/registry-image.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { Credential } from "../../src/registry/credential.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { FakeClock } from "../support/fake-clock.js";
import { type FaultyServer, type Handler, serveBytes, serveJson, startFaultyServer } from "../support/faulty-server.js";
import { ScriptedRegistry } from "../support/scripted-registry.js";
import { createCertificate } from "../support/token-server.js";

function redirectTo(target: () => string): Handler {
  return (_request, response) => response.writeHead(307, { location: target() }).end("see there");
}

const alice = { find: async () => Credential.basic("alice", "s3cret-pw") };

/** Serves blobs for whoever knows the signature of the moment. */
async function startStore(registry: ScriptedRegistry): Promise<FaultyServer & { signature: string }> {
  const server = await startFaultyServer((request, response) => {
    if (!request.url.endsWith(store.signature)) return serveJson(response, 403, "<Error>ExpiredToken</Error>");
    return serveBytes(registry.layer, request, response);
  });
  const store = Object.assign(server, { signature: "Signature=first" });
  return store;
}

describe("redirects of blobs", () => {
  test("the target is remembered, and never sees the registry's Authorization", async () => {
    await using registry = await ScriptedRegistry.start();
    const store = await startStore(registry);
    try {
      registry.server.handle((request, response) => {
        if (request.headers.authorization === undefined) {
          return serveJson(response, 401, {}, { "www-authenticate": 'Basic realm="x"' });
        }
        return redirectTo(() => `http://${store.host}/blob?${store.signature}`)(request, response);
      });
      const blob = await registry.blob({ credentials: alice });
      for (const offset of [0, 5, 9]) {
        assert.deepEqual(await collect(blob.fetchRange(offset, 5)), registry.layer.subarray(offset, offset + 5));
      }
      assert.equal(registry.server.requests.length, 2);
      assert.deepEqual(
        store.requests.map(({ headers }) => [headers.authorization, headers.range]),
        [0, 5, 9].map((offset) => [undefined, `bytes=${offset}-${offset + 4}`]),
      );
    } finally {
      await store.stop();
    }
  });

  for (const status of [401, 403, 404, 410]) {
    test(`a remembered target that answers ${status} is forgotten, and the registry asked again`, async () => {
      await using registry = await ScriptedRegistry.start();
      const store = await startStore(registry);
      try {
        registry.server.handle(redirectTo(() => `http://${store.host}/blob?${store.signature}`));
        const blob = await registry.blob();
        await collect(blob.fetchRange(0, 5));
        store.handle((request, response) => {
          if (request.url.endsWith("Signature=second")) return serveBytes(registry.layer, request, response);
          return serveJson(response, status, "");
        });
        store.signature = "Signature=second";
        assert.deepEqual(await collect(blob.fetchRange(5, 5)), registry.layer.subarray(5, 10));
        assert.equal(registry.server.requests.length, 2);
        assert.deepEqual(blob.stats(), { requests: 5, bytes: 10, retries: 0 });
      } finally {
        await store.stop();
      }
    });
  }

  test("a target past its known expiry is not asked", async () => {
    await using registry = await ScriptedRegistry.start();
    const store = await startStore(registry);
    const clock = new FakeClock();
    try {
      store.handle((request, response) => serveBytes(registry.layer, request, response));
      const signed = "X-Amz-Date=20260101T000000Z&X-Amz-Expires=60&X-Amz-Signature=abc";
      registry.server.handle(redirectTo(() => `http://${store.host}/blob?${signed}`));
      const blob = await registry.blob({ clock });
      await collect(blob.fetchRange(0, 5));
      clock.advance(59_000);
      await collect(blob.fetchRange(0, 5));
      assert.equal(registry.server.requests.length, 1);
      clock.advance(1000);
      await collect(blob.fetchRange(0, 5));
      assert.equal(registry.server.requests.length, 2);
    } finally {
      await store.stop();
    }
  });

  test("a store that dies is given up for what the registry says next", async () => {
    await using registry = await ScriptedRegistry.start();
    const store = await startStore(registry);
    registry.script(redirectTo(() => `http://${store.host}/blob?${store.signature}`));
    const blob = await registry.blob();
    await collect(blob.fetchRange(0, 5));
    await store.stop();
    assert.deepEqual(await collect(blob.fetchRange(5, 5)), registry.layer.subarray(5, 10));
    assert.equal(blob.stats().retries, 1);
  });

  test("a fresh target that refuses is denied; the message hides the signature", async () => {
    await using registry = await ScriptedRegistry.start();
    const store = await startStore(registry);
    try {
      registry.server.handle(redirectTo(() => `http://${store.host}/blob?X-Amz-Signature=topsecret`));
      const blob = await registry.blob();
      const error = await rejectsWith(collect(blob.fetchRange(0, 5)), "denied");
      assert.ok(error.message.includes(`${store.host} answered HTTP 403`), error.message);
      assert.doesNotMatch(error.message, /topsecret/);
    } finally {
      await store.stop();
    }
  });

  test("a store cannot ask for a login", async () => {
    await using registry = await ScriptedRegistry.start();
    const store = await startFaultyServer((_request, response) =>
      serveJson(response, 401, {}, { "www-authenticate": 'Basic realm="phish"' }),
    );
    try {
      registry.server.handle(redirectTo(() => `http://${store.host}/blob`));
      const blob = await registry.blob({ credentials: alice });
      await rejectsWith(collect(blob.fetchRange(0, 5)), "unauthorized");
      assert.equal(store.requests.length, 1);
    } finally {
      await store.stop();
    }
  });

  test("a redirect whose body never ends is cancelled like any other answer", async () => {
    await using registry = await ScriptedRegistry.start();
    const controller = new AbortController();
    registry.server.handle((_request, response) => {
      response.writeHead(307, { location: "/elsewhere", "content-length": 100 });
      response.write("see", () => controller.abort());
    });
    const blob = await registry.blob();
    await rejectsWith(collect(blob.fetchRange(0, 5, { signal: controller.signal })), "aborted");
  });

  test("a loop ends after five redirects", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle(redirectTo(() => "/v2/team/app/blobs/again?sig=topsecret"));
    const blob = await registry.blob();
    const error = await rejectsWith(collect(blob.fetchRange(0, 5)), "network");
    assert.match(error.message, /more than 5 redirects/);
    assert.doesNotMatch(error.message, /topsecret/);
    assert.equal(registry.server.requests.length, 6);
  });

  for (const [location, code] of [
    ["http://169.254.169.254/latest/meta-data", "denied"],
    ["http://[fe80::1]/x", "denied"],
    ["http://[::ffff:169.254.169.254]/x", "denied"],
    ["ftp://127.0.0.1/x", "denied"],
    ["file:///etc/shadow", "denied"],
    ["http://", "corrupt"],
  ] as const) {
    test(`a redirect to ${location} is ${code}`, async () => {
      await using registry = await ScriptedRegistry.start();
      registry.server.handle(redirectTo(() => location));
      const blob = await registry.blob();
      await rejectsWith(collect(blob.fetchRange(0, 5)), code);
      assert.equal(registry.server.requests.length, 1);
    });
  }
});

describe("addresses of this machine, from a registry that is elsewhere", () => {
  /** A registry by a name that means another machine to the policy, yet answers here: connections follow `connectTo`. */
  async function askedByName(target: string, connectTo: Record<string, string[]>) {
    const registry = await ScriptedRegistry.start();
    const [, port] = registry.host.split(":");
    const image = openRegistryImage(parseReference(`registry.test:${port}/team/app:v1`), {
      insecure: true,
      retryBaseDelayMs: 1,
      resolver: async (hostname) => {
        const answers = connectTo[hostname] ?? [];
        // The first answer is for the policy to remember; the last one stays.
        const address = answers.length > 1 ? (answers.shift() ?? "") : (answers[0] ?? "");
        return [{ address, family: 4 }];
      },
    });
    registry.server.handle(redirectTo(() => target.replace("PORT", port ?? "")));
    const blob = await image.openBlob(registry.descriptor);
    return { registry, image, blob };
  }

  for (const target of [
    "http://127.0.0.1:PORT/stolen",
    "http://2130706433:PORT/stolen",
    "http://[::ffff:127.0.0.1]:PORT/stolen",
    "http://rebound.test:PORT/stolen",
    "http://registry.test.:PORT/stolen",
  ]) {
    test(`a redirect to ${target} reaches nothing`, async () => {
      // Nothing can connect to a broadcast address: after the first answer the registry is asked again.
      const { registry, image, blob } = await askedByName(target, {
        "registry.test": ["255.255.255.255", "127.0.0.1"],
        "registry.test.": ["127.0.0.1"],
        "rebound.test": ["127.0.0.1"],
      });
      try {
        await rejectsWith(collect(blob.fetchRange(0, 5)), "denied");
        assert.deepEqual(
          registry.server.requests.filter(({ url }) => url.includes("stolen")),
          [],
        );
      } finally {
        await image[Symbol.asyncDispose]();
        await registry[Symbol.asyncDispose]();
      }
    });
  }
});

describe("https", () => {
  let directory = "";
  let tls: { key: string; cert: string };
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), "ocifs-tls-"));
    const { keyPem, certificatePem } = await createCertificate(directory, "server");
    tls = { key: keyPem, cert: certificatePem };
  });
  after(async () => {
    await rm(directory, { recursive: true, force: true });
  });

  test("works with a certificate that is trusted", async () => {
    await using registry = await ScriptedRegistry.start(tls);
    const blob = await registry.blob({ insecure: false, ca: tls.cert });
    assert.deepEqual(await collect(blob.fetchRange(3, 5)), registry.layer.subarray(3, 8));
  });

  test("a certificate that is not trusted is an error at once, and nothing is sent", async () => {
    await using registry = await ScriptedRegistry.start(tls);
    const image = registry.image({ insecure: false });
    const error = await rejectsWith(image.resolve(parsePlatform("linux/amd64")), "network");
    assert.match(error.message, /certificate is not trusted/);
    assert.equal(registry.server.requests.length, 0);
    assert.equal(image.stats().retries, 0);
  });

  test("a plain HTTP registry asked by https is an error that says so", async () => {
    await using registry = await ScriptedRegistry.start();
    const image = registry.image({ insecure: false });
    const error = await rejectsWith(image.resolve(parsePlatform("linux/amd64")), "network");
    assert.match(error.message, /oci\.insecure/);
  });

  test("a redirect from https to http is denied", async () => {
    await using registry = await ScriptedRegistry.start(tls);
    await using plain = await ScriptedRegistry.start();
    registry.server.handle(redirectTo(() => `http://${plain.host}/blob`));
    const blob = await registry.blob({ insecure: false, ca: tls.cert });
    const error = await rejectsWith(collect(blob.fetchRange(3, 5)), "denied");
    assert.match(error.message, /from https to http/);
    assert.equal(plain.server.requests.length, 0);
  });

  test("a token server on http is denied to an https registry", async () => {
    await using registry = await ScriptedRegistry.start(tls);
    await using plain = await ScriptedRegistry.start();
    registry.server.handle((_request, response) =>
      serveJson(response, 401, {}, { "www-authenticate": `Bearer realm="http://${plain.host}/token"` }),
    );
    const blob = await registry.blob({ insecure: false, ca: tls.cert, credentials: alice });
    await rejectsWith(collect(blob.fetchRange(3, 5)), "denied");
    assert.equal(plain.server.requests.length, 0);
  });
});
