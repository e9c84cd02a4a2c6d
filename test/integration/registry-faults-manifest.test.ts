import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { RegistryClient } from "../../src/registry/client.js";
import { rejectsWith, throwsWith } from "../support/errors.js";
import { ScriptedRegistry, toJson } from "../support/scripted-registry.js";

const amd64 = parsePlatform("linux/amd64");
const manifestType = { "content-type": mediaTypes.ociManifest };

describe("manifests from a registry that misbehaves", () => {
  test("bytes that are not those of the digest asked for are mismatch", async () => {
    await using registry = await ScriptedRegistry.start();
    const image = registry.image({}, `:v1@${digestOfBytes(Buffer.from("something else"))}`);
    const error = await rejectsWith(image.resolve(amd64), "mismatch");
    assert.ok(error.message.includes(digestOfBytes(registry.manifest)), error.message);
  });

  test("bytes that are not those of Docker-Content-Digest are mismatch, garbage there is corrupt", async () => {
    await using registry = await ScriptedRegistry.start();
    for (const [digest, code] of [
      [digestOfBytes(Buffer.from("something else")), "mismatch"],
      ["md5:0", "corrupt"],
    ] as const) {
      registry.server.handle((_request, response) => {
        response.writeHead(200, { ...manifestType, "docker-content-digest": digest }).end(registry.manifest);
      });
      await rejectsWith(registry.image().resolve(amd64), code);
    }
  });

  test("an oversized manifest is limit, whether it says its length or not", async () => {
    await using registry = await ScriptedRegistry.start();
    const piece = Buffer.alloc(1 << 20, " ");
    for (const headers of [{ "content-length": limits.manifestBytes + 1 }, {}]) {
      registry.server.handle((_request, response) => {
        response.writeHead(200, { ...manifestType, ...headers });
        const more = () => {
          while (response.write(piece));
          response.once("drain", more);
        };
        more();
      });
      await rejectsWith(registry.image().resolve(amd64), "limit");
    }
  });

  test("truncated JSON is corrupt; a body cut off by the connection is fetched again", async () => {
    await using registry = await ScriptedRegistry.start();
    registry.script((_request, response) => {
      response.writeHead(200, manifestType).end(registry.manifest.subarray(0, 100));
    });
    await rejectsWith(registry.image().resolve(amd64), "corrupt");
    registry.script((_request, response) => {
      response.writeHead(200, { ...manifestType, "content-length": registry.manifest.length });
      response.write(registry.manifest.subarray(0, 100), () => response.destroy());
    });
    const image = registry.image();
    assert.equal((await image.resolve(amd64)).manifestDigest, digestOfBytes(registry.manifest));
    assert.equal(image.stats().retries, 1);
  });

  test("an index whose entry has another size, or other bytes, is mismatch", async () => {
    await using registry = await ScriptedRegistry.start();
    const platform = { os: "linux", architecture: "amd64" };
    const good = { mediaType: mediaTypes.ociManifest, digest: digestOfBytes(registry.manifest), platform };
    for (const [entry, code] of [
      [{ ...good, size: registry.manifest.length + 1 }, "mismatch"],
      [{ ...good, size: registry.manifest.length, digest: digestOfBytes(Buffer.from("other")) }, "mismatch"],
      [{ ...good, size: registry.manifest.length, mediaType: mediaTypes.ociIndex }, "corrupt"],
    ] as const) {
      registry.script((_request, response) => {
        const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [entry] };
        response.writeHead(200, { "content-type": mediaTypes.ociIndex }).end(toJson(index));
      });
      await rejectsWith(registry.image().resolve(amd64), code);
    }
  });

  test("indexes without end are limit", async () => {
    await using registry = await ScriptedRegistry.start();
    // Each index names the one served next; the innermost is made first, because digests point inwards.
    let next = { mediaType: mediaTypes.ociIndex, digest: digestOfBytes(toJson({})), size: 2 };
    const indexes = Array.from({ length: limits.indexDepth + 2 }, () => {
      const index = toJson({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [next] });
      next = { mediaType: mediaTypes.ociIndex, digest: digestOfBytes(index), size: index.length };
      return index;
    });
    registry.script(
      ...indexes.reverse().map((index) => (_request: unknown, response: import("node:http").ServerResponse) => {
        response.writeHead(200, { "content-type": mediaTypes.ociIndex }).end(index);
      }),
    );
    await rejectsWith(registry.image().resolve(amd64), "limit");
  });

  test("a config of other bytes or size is mismatch, one with another number of layers too", async () => {
    await using registry = await ScriptedRegistry.start();
    const image = registry.image();
    const resolved = await image.resolve(amd64);
    const { config } = resolved.manifest;
    const same = Buffer.from(registry.config);
    same[same.length - 2] = 0x20;
    for (const bytes of [same, registry.config.subarray(1)]) {
      registry.script((_request, response) => {
        response.writeHead(200).end(bytes);
      });
      await rejectsWith(image.fetchConfig(resolved), "mismatch");
    }
    const layers = [...resolved.manifest.layers, ...resolved.manifest.layers];
    await rejectsWith(image.fetchConfig({ ...resolved, manifest: { ...resolved.manifest, layers } }), "mismatch");
    assert.equal((await image.fetchConfig(resolved)).bytes.length, config.sizeBytes);
  });

  test("a client refuses to be insecure with Docker Hub, and references of another registry", async () => {
    throwsWith(() => new RegistryClient("docker.io", { insecure: true }), "usage");
    await using client = new RegistryClient("registry.test");
    await rejectsWith(client.resolve(parseReference("other.test/x"), amd64), "internal");
  });
});
