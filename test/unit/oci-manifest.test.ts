import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { parseImageConfig } from "../../src/oci/config.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { choosePlatform, type ImageIndex, parseManifest } from "../../src/oci/manifest.js";
import { isForeignLayer, layerEncodingOf, mediaTypes } from "../../src/oci/media-types.js";
import { parsePlatform } from "../../src/oci/platform.js";
import { throwsWith } from "../support/errors.js";

const digest = digestOfBytes(Buffer.from("x"));
const config = { mediaType: mediaTypes.ociConfig, digest, size: 10 };
const layer = { mediaType: mediaTypes.ociLayerGzip, digest, size: 20 };
const manifest = { schemaVersion: 2, config, layers: [layer] };
const index = { schemaVersion: 2, manifests: [{ mediaType: mediaTypes.ociManifest, digest, size: 30 }] };

const parse = (document: unknown, declaredType?: string) =>
  parseManifest(Buffer.from(JSON.stringify(document)), "manifest m", declaredType);

describe("manifests", () => {
  for (const [name, document, declaredType, kind, mediaType] of [
    ["OCI", { ...manifest, mediaType: mediaTypes.ociManifest }, undefined, "manifest", mediaTypes.ociManifest],
    ["without mediaType", manifest, undefined, "manifest", mediaTypes.ociManifest],
    [
      "typed by the server",
      manifest,
      `${mediaTypes.dockerManifest}; x=y`,
      "manifest",
      `${mediaTypes.dockerManifest}; x=y`,
    ],
    ["served as plain JSON", manifest, "application/json", "manifest", mediaTypes.ociManifest],
    ["Docker", { ...manifest, mediaType: mediaTypes.dockerManifest }, undefined, "manifest", mediaTypes.dockerManifest],
    ["OCI index", { ...index, mediaType: mediaTypes.ociIndex }, undefined, "index", mediaTypes.ociIndex],
    ["index without mediaType", index, undefined, "index", mediaTypes.ociIndex],
    ["list", { ...index, mediaType: mediaTypes.dockerManifestList }, undefined, "index", mediaTypes.dockerManifestList],
    ["null fields", { ...manifest, mediaType: null, annotations: null }, undefined, "manifest", mediaTypes.ociManifest],
  ] as const) {
    test(`${name} is a ${kind}`, () => {
      const parsed = parse(document, declaredType);
      assert.equal(parsed.kind, kind);
      assert.equal(parsed.mediaType, mediaType);
    });
  }

  test("descriptors keep what mounting needs", () => {
    const parsed = parse({ ...manifest, layers: [{ ...layer, annotations: { a: "b" }, urls: ["https://x.test/"] }] });
    assert.equal(parsed.kind, "manifest");
    assert.deepEqual(parsed.kind === "manifest" && parsed.layers, [
      {
        mediaType: layer.mediaType,
        digest,
        sizeBytes: 20,
        annotations: new Map([["a", "b"]]),
        urls: ["https://x.test/"],
      },
    ]);
  });

  const schema1 = { schemaVersion: 1, name: "x", tag: "y", fsLayers: [] };
  for (const [name, document, declaredType, code, message] of [
    ["schema 1", schema1, undefined, "unsupported", /Docker schema 1/],
    [
      "schema 1 by type",
      manifest,
      "application/vnd.docker.distribution.manifest.v1+prettyjws",
      "unsupported",
      /schema 1/,
    ],
    ["no version", { config, layers: [] }, undefined, "corrupt", /want schemaVersion 2, got nothing/],
    ["version 3", { ...manifest, schemaVersion: 3 }, undefined, "corrupt", /got 3/],
    ["version as text", { ...manifest, schemaVersion: "2" }, undefined, "corrupt", /got "2"/],
    ["both kinds", { ...manifest, ...index }, undefined, "corrupt", /refusing to guess/],
    [
      "an index that says manifest",
      { ...index, mediaType: mediaTypes.ociManifest },
      undefined,
      "corrupt",
      /but it is not/,
    ],
    ["an index served as manifest", index, mediaTypes.ociManifest, "corrupt", /declared to be a manifest/],
    ["a manifest served as index", manifest, mediaTypes.ociIndex, "corrupt", /declared to be an index/],
    ["neither", { schemaVersion: 2 }, undefined, "corrupt", /neither/],
    ["an unknown type", { ...manifest, mediaType: "application/x" }, undefined, "unsupported", /"application\/x"/],
    ["an array", [], undefined, "corrupt", /want a JSON object, got an array/],
    ["no config", { schemaVersion: 2, layers: [] }, undefined, "corrupt", /config: want a JSON object, got nothing/],
    ["layers of another type", { ...manifest, layers: {} }, undefined, "corrupt", /layers: want a JSON array/],
    ["a layer that is null", { ...manifest, layers: [null] }, undefined, "corrupt", /layers\[0\]: .* got null/],
    ["a negative size", { ...manifest, layers: [{ ...layer, size: -1 }] }, undefined, "corrupt", /size.*got -1/],
    ["a size with a fraction", { ...manifest, layers: [{ ...layer, size: 1.5 }] }, undefined, "corrupt", /got 1.5/],
    ["a size as text", { ...manifest, layers: [{ ...layer, size: "1" }] }, undefined, "corrupt", /got "1"/],
    ["an enormous size", { ...manifest, layers: [{ ...layer, size: 2 ** 52 }] }, undefined, "limit", /the limit is/],
    ["a short digest", { ...manifest, layers: [{ ...layer, digest: "sha256:12" }] }, undefined, "corrupt", /digest/],
    ["a path as digest", { ...manifest, layers: [{ ...layer, digest: "../../x" }] }, undefined, "corrupt", /digest/],
    [
      "another hash",
      { ...manifest, layers: [{ ...layer, digest: "blake3:12" }] },
      undefined,
      "unsupported",
      /"blake3"/,
    ],
    ["annotations of another type", { ...manifest, annotations: { a: 1 } }, undefined, "corrupt", /annotations.a/],
    [
      "too many layers",
      { ...manifest, layers: Array(limits.layers + 1).fill(layer) },
      undefined,
      "limit",
      /1025 items/,
    ],
  ] as const) {
    test(`${name} is ${code}`, () => {
      assert.match(throwsWith(() => parse(document, declaredType), code).message, message);
    });
  }

  test("what is no UTF-8 JSON is corrupt, what is too long is limit", () => {
    for (const bytes of [Buffer.from(""), Buffer.from("{"), Buffer.from([0x7b, 0xff, 0x7d])]) {
      throwsWith(() => parseManifest(bytes, "manifest m"), "corrupt");
    }
    throwsWith(() => parseManifest(Buffer.from("[".repeat(100_000)), "manifest m"), "limit");
    throwsWith(() => parseManifest(Buffer.alloc(limits.manifestBytes + 1, " "), "manifest m"), "limit");
  });
});

describe("choice of a platform", () => {
  const entry = (platform: string | undefined, extra = {}) => ({
    mediaType: mediaTypes.ociManifest,
    digest: digestOfBytes(Buffer.from(`${platform}`)),
    sizeBytes: 1,
    annotations: new Map<string, string>(),
    ...(platform === undefined ? {} : { platform: parsePlatform(platform) }),
    ...extra,
  });
  const indexOf = (...manifests: ReturnType<typeof entry>[]): ImageIndex => ({
    kind: "index",
    mediaType: mediaTypes.ociIndex,
    manifests,
    annotations: new Map(),
  });
  const attestation = entry("unknown/unknown", {
    annotations: new Map([["vnd.docker.reference.type", "attestation"]]),
  });

  for (const [wanted, platforms, chosen] of [
    ["linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64", "linux/amd64"], "linux/arm/v6"],
    ["linux/arm/v7", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"],
    ["linux/arm64", ["linux/amd64", "linux/arm64/v8"], "linux/arm64/v8"],
    ["linux/amd64/v4", ["linux/amd64", "linux/amd64/v3"], "linux/amd64/v3"],
  ] as const) {
    test(`${wanted} of ${platforms.join(", ")} is ${chosen}`, () => {
      const candidates = indexOf(attestation, ...platforms.map((platform) => entry(platform)));
      assert.deepEqual(choosePlatform(candidates, parsePlatform(wanted), "i").platform, parsePlatform(chosen));
    });
  }

  test("the only image will do without a platform, several will not, nor one for another platform", () => {
    const unnamed = entry(undefined);
    assert.equal(choosePlatform(indexOf(unnamed, attestation), parsePlatform("linux/amd64"), "i"), unnamed);
    for (const other of [indexOf(unnamed, unnamed), indexOf(entry("linux/arm64")), indexOf(attestation), indexOf()]) {
      throwsWith(() => choosePlatform(other, parsePlatform("linux/amd64"), "i"), "not-found");
    }
  });

  test("entries that are no images do not count", () => {
    const artifact = entry("linux/amd64", { mediaType: "application/vnd.example" });
    throwsWith(() => choosePlatform(indexOf(artifact), parsePlatform("linux/amd64"), "i"), "not-found");
  });
});

describe("image configs", () => {
  const rootfs = { type: "layers", diff_ids: [digest] };
  const parseConfig = (document: unknown) => parseImageConfig(Buffer.from(JSON.stringify(document)), "config c");

  test("give diffIDs and platform", () => {
    const parsed = parseConfig({ os: "linux", architecture: "arm64", variant: "v8", rootfs });
    assert.deepEqual(parsed.diffIds, [digest]);
    assert.deepEqual(parsed.platform, parsePlatform("linux/arm64"));
    assert.equal(parseConfig({ rootfs }).platform, undefined);
    assert.deepEqual(parseConfig({ rootfs: { type: "layers", diff_ids: null } }).diffIds, []);
  });

  for (const [document, code] of [
    [{}, "unsupported"],
    [{ rootfs: { type: "other" } }, "unsupported"],
    [{ rootfs: {} }, "corrupt"],
    [{ rootfs: { type: "layers", diff_ids: ["x"] } }, "corrupt"],
    [{ rootfs: { type: "layers", diff_ids: {} } }, "corrupt"],
    [{ rootfs, os: 5 }, "corrupt"],
  ] as const) {
    test(`${JSON.stringify(document).slice(0, 60)} is ${code}`, () => {
      assert.match(throwsWith(() => parseConfig(document), code).message, /^config c: /);
    });
  }
});

describe("layer media types", () => {
  for (const [mediaType, encoding, foreign] of [
    ["application/vnd.oci.image.layer.v1.tar", "tar", false],
    ["application/vnd.oci.image.layer.v1.tar+gzip", "gzip", false],
    ["application/vnd.oci.image.layer.v1.tar+zstd", "zstd", false],
    ["application/vnd.oci.image.layer.nondistributable.v1.tar", "tar", true],
    ["application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip", true],
    ["application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", "zstd", true],
    ["application/vnd.docker.image.rootfs.diff.tar", "tar", false],
    ["application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip", false],
    ["application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd", false],
    ["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip", true],
    ["Application/vnd.OCI.image.layer.v1.tar+gzip; charset=x", "gzip", false],
  ] as const) {
    test(`${mediaType} is ${encoding}`, () => {
      assert.equal(layerEncodingOf(mediaType), encoding);
      assert.equal(isForeignLayer(mediaType), foreign);
    });
  }

  for (const mediaType of [
    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    "application/vnd.oci.image.layer.v1.tar+bzip2",
    "application/vnd.oci.empty.v1+json",
    "",
  ]) {
    test(`${mediaType || "nothing"} is unsupported, by name`, () => {
      assert.ok(throwsWith(() => layerEncodingOf(mediaType), "unsupported").message.includes(`"${mediaType}"`));
    });
  }
});
