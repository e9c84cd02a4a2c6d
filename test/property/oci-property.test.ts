import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { OcifsError } from "../../src/base/errors.js";
import { parseImageConfig } from "../../src/oci/config.js";
import { digestOfBytes } from "../../src/oci/digest.js";
import { parseImageSource } from "../../src/oci/image-source.js";
import { parseManifest } from "../../src/oci/manifest.js";
import { mediaTypes } from "../../src/oci/media-types.js";
import { formatPlatform, parsePlatform } from "../../src/oci/platform.js";
import { formatReference, parseReference } from "../../src/oci/reference.js";

/** What a parser of hostile input may do: return a value or throw an OcifsError. */
function returnsOrThrowsOcifsError(call: () => unknown): void {
  let failure: unknown;
  try {
    call();
    return;
  } catch (error) {
    failure = error;
  }
  assert.ok(failure instanceof OcifsError, `threw ${String(failure)}`);
}

const component = fc.stringMatching(/^[a-z0-9]{1,8}(?:[._-][a-z0-9]{1,4})?$/);
const host = fc.oneof(
  fc.stringMatching(/^[a-z0-9]{1,8}\.[a-z]{2,5}$/).filter((name) => !name.endsWith("docker.io")),
  fc.constantFrom("localhost", "docker.io", "127.0.0.1:5000", "[::1]:80", "host:1"),
);
const tag = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}$/);
const digest = fc.uint8Array().map((bytes) => digestOfBytes(bytes));

describe("references", () => {
  test("what is written in the canonical form parses to the same reference", () => {
    fc.assert(
      fc.property(
        host,
        fc.array(component, { minLength: 2, maxLength: 4 }),
        fc.option(tag, { nil: undefined }),
        fc.option(digest, { nil: undefined }),
        (registry, components, givenTag, givenDigest) => {
          const repository = components.join("/");
          const tagPart = givenTag === undefined ? "" : `:${givenTag}`;
          const digestPart = givenDigest === undefined ? "" : `@${givenDigest}`;
          const reference = parseReference(`${registry}/${repository}${tagPart}${digestPart}`);
          const noSelector = givenTag === undefined && givenDigest === undefined;
          assert.equal(reference.registry, registry);
          assert.equal(reference.repository, repository);
          assert.equal(reference.tag, noSelector ? "latest" : givenTag);
          assert.equal(reference.digest, givenDigest);
          assert.deepEqual(parseReference(formatReference(reference)), reference);
        },
      ),
    );
  });

  test("any text is a reference whose canonical form is stable, or usage", () => {
    const piece = fc.constantFrom(
      "a",
      "B",
      "0",
      "/",
      ":",
      "@",
      ".",
      "_",
      "-",
      "[",
      "]",
      "localhost",
      "docker.io",
      "sha256:",
    );
    const text = fc.oneof(
      fc.string(),
      fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join("")),
    );
    fc.assert(
      fc.property(text, (input) => {
        returnsOrThrowsOcifsError(() => {
          const reference = parseReference(input);
          assert.deepEqual(parseReference(formatReference(reference)), reference);
        });
        returnsOrThrowsOcifsError(() => parseImageSource(input));
        returnsOrThrowsOcifsError(() => parseImageSource(`oci:${input}`));
      }),
      { numRuns: 2000 },
    );
  });
});

describe("platforms", () => {
  test("any text is a platform whose canonical form is stable, or usage", () => {
    const piece = fc.constantFrom("linux", "arm", "arm64", "amd64", "/", "v8", "7", "x86_64", "v1.0", ".0", "-");
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 7 }), (pieces) => {
        returnsOrThrowsOcifsError(() => {
          const platform = parsePlatform(pieces.join(""));
          assert.deepEqual(parsePlatform(formatPlatform(platform)), platform);
        });
      }),
      { numRuns: 2000 },
    );
  });
});

describe("documents", () => {
  const mediaType = fc.oneof(fc.constantFrom(...Object.values(mediaTypes)), fc.jsonValue());
  const descriptor = fc.record(
    {
      mediaType,
      digest: fc.oneof(digest, fc.jsonValue()),
      size: fc.oneof(fc.nat(), fc.jsonValue()),
      annotations: fc.jsonValue(),
      platform: fc.oneof(fc.record({ os: fc.jsonValue(), architecture: fc.jsonValue() }), fc.jsonValue()),
      urls: fc.jsonValue(),
    },
    { requiredKeys: [] },
  );
  const list = fc.oneof(fc.array(fc.oneof(descriptor, fc.jsonValue()), { maxLength: 4 }), fc.jsonValue());
  const document = fc.oneof(
    fc.jsonValue(),
    fc.record(
      {
        schemaVersion: fc.oneof(fc.constantFrom(2, 1), fc.jsonValue()),
        mediaType,
        config: fc.oneof(descriptor, fc.jsonValue()),
        layers: list,
        manifests: list,
        annotations: fc.jsonValue(),
        rootfs: fc.oneof(fc.record({ type: fc.constant("layers"), diff_ids: fc.jsonValue() }), fc.jsonValue()),
      },
      { requiredKeys: [] },
    ),
  );

  test("any JSON is a manifest or config, or an OcifsError", () => {
    fc.assert(
      fc.property(document, fc.option(fc.string(), { nil: undefined }), (value, declaredType) => {
        const bytes = Buffer.from(JSON.stringify(value));
        returnsOrThrowsOcifsError(() => parseManifest(bytes, "m", declaredType));
        returnsOrThrowsOcifsError(() => parseImageConfig(bytes, "c"));
      }),
      { numRuns: 3000 },
    );
  });

  test("any bytes are an OcifsError at worst", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        returnsOrThrowsOcifsError(() => parseManifest(bytes, "m"));
      }),
    );
  });
});
