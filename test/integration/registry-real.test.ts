import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { openRegistryImage } from "../../src/blob/registry-image.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { parseReference } from "../../src/oci/reference.js";
import { Credential, type CredentialProvider } from "../../src/registry/credential.js";
import { findCredentials } from "../../src/registry/credentials.js";
import { collect } from "../support/bytes.js";
import { rejectsWith } from "../support/errors.js";
import { pushImage, pushManifest, type RegistryAuth, startRegistry, type TestRegistry } from "../support/registry.js";

const amd64 = parsePlatform("linux/amd64");
const layerBytes = randomBytes(300_000);
const layer = { bytes: layerBytes, mediaType: mediaTypes.ociLayerTar };
const repository = "team/app";

const setups: readonly { readonly name: string; readonly auth?: RegistryAuth }[] = [
  { name: "without auth" },
  { name: "with Basic auth", auth: { user: "alice", password: "pass:word ü" } },
  { name: "with Bearer auth", auth: { user: "alice", password: "s3cret", scheme: "bearer" } },
];

for (const { name, auth } of setups) {
  describe(`a real registry ${name}`, () => {
    let registry: TestRegistry;
    const credentials = (): { credentials?: CredentialProvider } =>
      auth === undefined ? {} : { credentials: findCredentials({ username: auth.user, password: auth.password }) };
    const open = (selector: string, options = credentials()) =>
      openRegistryImage(parseReference(`${registry.host}/${repository}${selector}`), { insecure: true, ...options });

    before(async () => {
      registry = await startRegistry(auth === undefined ? {} : { auth });
    });
    after(async () => {
      await registry.stop();
    });
    const push = (tag: string, extra = {}) =>
      pushImage(registry.host, { layers: [layer], repository, tag, ...(auth === undefined ? {} : { auth }), ...extra });

    test("resolves a tag, its digest, its config, and reads ranges of a layer", async () => {
      const pushed = await push("v1");
      await using image = open(":v1");
      const resolved = await image.resolve(amd64);
      assert.equal(resolved.manifestDigest, pushed.manifest.digest);
      assert.equal(resolved.rootDigest, pushed.manifest.digest);
      assert.deepEqual(Buffer.from(resolved.manifestBytes), pushed.manifestBytes);
      assert.deepEqual((await image.fetchConfig(resolved)).diffIds, [digestOfBytes(layerBytes)]);
      const [descriptor] = resolved.manifest.layers;
      assert.ok(descriptor);
      await using blob = await image.openBlob(descriptor);
      assert.deepEqual(await collect(blob.fetchRange(1000, 4096)), layerBytes.subarray(1000, 5096));
      assert.deepEqual(await collect(blob.fetchRange(0, blob.sizeBytes)), layerBytes);
      assert.deepEqual(await collect(blob.fetchRange(blob.sizeBytes - 1, 1)), layerBytes.subarray(-1));
      assert.equal(blob.rangesSupported, true);
      assert.deepEqual(blob.stats(), { requests: 3, bytes: 4096 + layerBytes.length + 1, retries: 0 });
      await using byDigest = open(`@${pushed.manifest.digest}`);
      assert.equal((await byDigest.resolve(amd64)).manifestDigest, pushed.manifest.digest);
    });

    test("chooses the platform of an index", async () => {
      const arm = await push("arm", { config: { architecture: "arm64" } });
      const intel = await push("intel", { config: { created: "2026-01-01T00:00:00Z" } });
      const index = await pushManifest(registry.host, {
        repository,
        tag: "multi",
        mediaType: mediaTypes.ociIndex,
        document: {
          schemaVersion: 2,
          mediaType: mediaTypes.ociIndex,
          manifests: [
            { ...arm.manifest, platform: { os: "linux", architecture: "arm64", variant: "v8" } },
            { ...intel.manifest, platform: { os: "linux", architecture: "amd64" } },
          ],
        },
        ...(auth === undefined ? {} : { auth }),
      });
      await using image = open(":multi");
      const resolved = await image.resolve(parsePlatform("linux/arm64"));
      assert.equal(resolved.rootDigest, index.digest);
      assert.equal(resolved.manifestDigest, arm.manifest.digest);
      assert.equal((await image.resolve(amd64)).manifestDigest, intel.manifest.digest);
      const error = await rejectsWith(image.resolve(parsePlatform("linux/s390x")), "not-found");
      assert.match(error.message, /linux\/s390x.*linux\/arm64\/v8, linux\/amd64/);
    });

    test("a manifest without mediaType is an image too", async () => {
      const pushed = await push("untyped", { manifest: { mediaType: undefined } });
      assert.doesNotMatch(pushed.manifestBytes.toString(), /"mediaType":"application\/vnd.oci.image.manifest/);
      await using image = open(":untyped");
      assert.equal((await image.resolve(amd64)).manifestDigest, pushed.manifest.digest);
    });

    test("a tag that does not exist is not-found, with the registry's reason", async () => {
      await using image = open(":missing");
      const error = await rejectsWith(image.resolve(amd64), "not-found");
      assert.match(error.message, /:missing: 127\.0\.0\.1:\d+ answered HTTP 404 \(MANIFEST_UNKNOWN: /);
    });

    if (auth !== undefined) {
      test("no or wrong credentials are unauthorized, and the message holds no secret", async () => {
        await push("v1");
        await using anonymously = open(":v1", {});
        await rejectsWith(anonymously.resolve(amd64), "unauthorized");
        await using wrongly = open(":v1", {
          credentials: findCredentials({ username: "alice", password: "wr0ng-pw" }),
        });
        const error = await rejectsWith(wrongly.resolve(amd64), "unauthorized");
        assert.doesNotMatch(error.message, /wr0ng-pw/);
      });
    }

    if (auth?.scheme === "bearer") {
      test("an identity token is exchanged by POST", async () => {
        await push("v1");
        registry.tokenServer?.refreshTokens.add("refresh-me");
        const identity = { find: async () => Credential.identityToken("refresh-me") };
        await using image = open(":v1", { credentials: identity });
        await image.resolve(amd64);
        const sent = registry.tokenServer?.requests.at(-1);
        assert.equal(sent?.method, "POST");
        assert.equal(new URLSearchParams(sent?.body).get("grant_type"), "refresh_token");
        assert.equal(sent?.headers.authorization, undefined);
      });

      test("many requests at once share one token request", async () => {
        const pushed = await push("v1");
        await using image = open(`@${pushed.manifest.digest}`);
        const before = registry.tokenServer?.requests.length ?? 0;
        await Promise.all(Array.from({ length: 12 }, () => image.resolve(amd64)));
        assert.equal((registry.tokenServer?.requests.length ?? 0) - before, 1);
      });
    }
  });
}
