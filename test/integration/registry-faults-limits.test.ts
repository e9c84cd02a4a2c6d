import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { RegistryClient } from "../../src/registry/client.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { type ReceivedRequest, serveJson, startFaultyServer } from "../support/faulty-server.js";
import { lowerLimits } from "../support/lowered-limits.js";
import { ScriptedRegistry, scriptedRepository } from "../support/scripted-registry.js";

const amd64 = parsePlatform("linux/amd64");

/** The same request for the repository that the scripted registry has. */
const manifestOf = (request: ReceivedRequest): ReceivedRequest => ({
  ...request,
  url: request.url.replace(/team\/[abc]/, scriptedRepository),
});

describe("servers that send more than is read", () => {
  test("header fields without end are limit, and are asked for once", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.server.handle((_request, response) => {
      response.writeHead(200, { "x-long": "x".repeat(limits.httpHeaderBytes) }).end("{}");
    });
    const error = await rejectsWith(registry.image().resolve(amd64), "limit");
    assert.match(error.message, /more than 32768 bytes of header fields/);
    assert.equal(registry.server.requests.length, 1);
  });

  test("a redirect as long as signed ones are is followed", async () => {
    await using registry = await ScriptedRegistry.start();
    const store = await startFaultyServer((_request, response) => response.writeHead(404).end());
    store.handle((request, response) => {
      response.writeHead(206, { "content-range": `bytes 0-4/${registry.layer.length}`, "content-length": 5 });
      assert.ok(request.url.length > 12_000);
      response.end(registry.layer.subarray(0, 5));
    });
    try {
      registry.server.handle((_request, response) => {
        const location = `http://${store.host}/blob?signature=${"s".repeat(12_000)}`;
        response.writeHead(307, { location }).end();
      });
      const blob = await registry.blob();
      assert.deepEqual(await collect(blob.fetchRange(0, 5)), registry.layer.subarray(0, 5));
    } finally {
      await store.stop();
    }
  });

  test("a config without end is limit", async () => {
    await using registry = await ScriptedRegistry.start();
    const headers = { "content-length": limits.configBytes + 1 };
    registry.script(registry.serve, (_request, response) => response.writeHead(200, headers).write("{"));
    const image = registry.image();
    const resolved = await image.resolve(amd64);
    await rejectsWith(image.fetchConfig(resolved), "limit");
  });

  test("a token answer without end is limit", async () => {
    await using registry = await ScriptedRegistry.start();
    const tokens = await startFaultyServer((_request, response) =>
      serveJson(response, 200, { token: "t".repeat(limits.tokenBytes) }),
    );
    try {
      registry.server.handle((_request, response) =>
        serveJson(response, 401, {}, { "www-authenticate": `Bearer realm="http://${tokens.host}/t"` }),
      );
      await rejectsWith(registry.image().resolve(amd64), "limit");
    } finally {
      await tokens.stop();
    }
  });

  test("of an error's body only the beginning is read, and less is told", async () => {
    await using registry = await ScriptedRegistry.start();
    const piece = Buffer.alloc(1 << 16, "x");
    registry.server.handle((_request, response) => {
      response.writeHead(403, { "content-type": "application/json" });
      const more = () => {
        while (!response.destroyed && response.write(piece));
        response.once("drain", more);
      };
      more();
    });
    const endless = await rejectsWith(registry.image().resolve(amd64), "denied");
    assert.ok(endless.message.length < 300, endless.message);
    const message = "m".repeat(limits.errorBodyBytes - 100);
    registry.server.handle((_request, response) => serveJson(response, 403, { errors: [{ code: "DENIED", message }] }));
    const long = await rejectsWith(registry.image().resolve(amd64), "denied");
    assert.match(long.message, /DENIED: mmm/);
    assert.ok(long.message.length < 600, long.message);
  });

  test("the body of a redirect is read a little way, and then the connection is given up", async () => {
    await using registry = await ScriptedRegistry.start();
    const piece = Buffer.alloc(1 << 16, "x");
    registry.script((request, response) => {
      response.writeHead(307, { location: `${request.url}?again` });
      const more = () => {
        while (!response.destroyed && response.write(piece));
        response.once("drain", more);
      };
      more();
    });
    const image = registry.image();
    assert.equal((await image.resolve(amd64)).manifest.layers.length, 1);
  });

  test("tokens are kept for so many repositories, the one used last longest", async (t) => {
    await using registry = await ScriptedRegistry.start();
    const tokens = await startFaultyServer((_request, response) => serveJson(response, 200, { token: "t" }));
    try {
      registry.server.handle((request, response) => {
        if (request.headers.authorization === "Bearer t") return registry.serve(manifestOf(request), response);
        return serveJson(response, 401, {}, { "www-authenticate": `Bearer realm="http://${tokens.host}/t"` });
      });
      lowerLimits(t, { authTokens: 2 });
      await using client = new RegistryClient(registry.host, { insecure: true });
      for (const repository of ["team/a", "team/b", "team/a", "team/c", "team/b"]) {
        await client.resolve(parseReference(`${registry.host}/${repository}:v1`), amd64);
      }
      // The third found its token; the fourth made room by giving up the oldest, which was a's.
      assert.deepEqual(
        tokens.requests.map(({ url }) => /team%2F(.)/.exec(url)?.[1]),
        ["a", "b", "c"],
      );
    } finally {
      await tokens.stop();
    }
  });

  test("servers that a registry sends us to are kept in mind up to a number", async (t) => {
    lowerLimits(t, { originPools: 2 });
    await using registry = await ScriptedRegistry.start();
    const range = `bytes 0-4/${registry.layer.length}`;
    const stores = await Promise.all(
      Array.from({ length: 5 }, () =>
        startFaultyServer((_request, response) => {
          response.writeHead(206, { "content-range": range, "content-length": 5 });
          response.end(registry.layer.subarray(0, 5));
        }),
      ),
    );
    try {
      for (const store of stores) {
        registry.server.handle((_request, response) => {
          response.writeHead(307, { location: `http://${store.host}/blob`, "cache-control": "no-store" }).end();
        });
        await using blob = await registry.blob();
        assert.deepEqual(await collect(blob.fetchRange(0, 5)), registry.layer.subarray(0, 5));
        assert.equal(store.requests.length, 1);
      }
    } finally {
      for (const store of stores) await store.stop();
    }
  });
});
