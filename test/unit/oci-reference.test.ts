import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { parseImageSource } from "../../src/oci/image-source.js";
import { apiHostOf, formatReference, manifestSelectorOf, parseReference } from "../../src/oci/reference.js";
import { throwsWith } from "../support/errors.js";

const hex = "0123456789abcdef".repeat(4);
const sha256 = `sha256:${hex}`;
const sha512 = `sha512:${hex}${hex}`;

describe("image references", () => {
  const table: readonly (readonly [text: string, canonical: string])[] = [
    ["busybox", "docker.io/library/busybox:latest"],
    ["busybox:1.36", "docker.io/library/busybox:1.36"],
    ["team/app", "docker.io/team/app:latest"],
    ["a/b/c:x", "docker.io/a/b/c:x"],
    ["docker.io/busybox", "docker.io/library/busybox:latest"],
    ["index.docker.io/busybox", "docker.io/library/busybox:latest"],
    ["registry-1.docker.io/team/app", "docker.io/team/app:latest"],
    ["DOCKER.io/busybox", "docker.io/library/busybox:latest"],
    ["localhost/x", "localhost/x:latest"],
    ["localhost:5000/x", "localhost:5000/x:latest"],
    ["host:5000", "docker.io/library/host:5000"],
    ["myhost:5000/x:y", "myhost:5000/x:y"],
    ["myhost/x", "docker.io/myhost/x:latest"],
    ["registry.example/app:1.4", "registry.example/app:1.4"],
    ["Registry.Example:443/app", "registry.example:443/app:latest"],
    ["127.0.0.1:5000/team/app:v1", "127.0.0.1:5000/team/app:v1"],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
    ["[2001:DB8::1]/app", "[2001:db8::1]/app:latest"],
    [`registry.example/app@${sha256}`, `registry.example/app@${sha256}`],
    [`registry.example/app:1.4@${sha256}`, `registry.example/app:1.4@${sha256}`],
    [`busybox@${sha512}`, `docker.io/library/busybox@${sha512}`],
    ["r.example/a__b/c.d/e--f_g:_T.a-G", "r.example/a__b/c.d/e--f_g:_T.a-G"],
    [`r.example/a:${"t".repeat(128)}`, `r.example/a:${"t".repeat(128)}`],
  ];
  for (const [text, canonical] of table) {
    test(`${text.slice(0, 60)} is ${canonical.slice(0, 60)}`, () => {
      const reference = parseReference(text);
      assert.equal(formatReference(reference), canonical);
      assert.deepEqual(parseReference(canonical), reference);
    });
  }

  const errors: readonly (readonly [text: string, message: RegExp])[] = [
    ["", /it is empty/],
    ["https://registry.example/app", /without a scheme/],
    ["docker://busybox", /without a scheme/],
    ["Team/app", /"Team" must be lower case/],
    ["registry.example/App", /"App" must be lower case/],
    ["registry.example/", /empty component/],
    ["registry.example//app", /empty component/],
    ["/app", /before the first \//],
    ["app/", /empty component/],
    ["a..b/c", /not a host name/],
    ["-a.b/c", /not a host name/],
    ["a_b.c/d", /not a host name/],
    ["user@registry.example/app", /after "@" must stand sha256/],
    ["user:pw@registry.example/app", /after "@" must stand sha256/],
    ["registry.example:0/app", /port 0 is not/],
    ["registry.example:65536/app", /port 65536 is not/],
    ["registry.example:x/app", /not a host name/],
    ["app:", /tag ""/],
    ["app:-x", /tag "-x"/],
    ["app:a b", /tag "a b"/],
    [`app:${"t".repeat(129)}`, /must be 1 to 128/],
    ["app@sha256:abc", /after "@" must stand/],
    [`app@md5:${hex.slice(32)}`, /after "@" must stand/],
    [`app@${sha256}@${sha256}`, /after "@" must stand/],
    [hex, /bare hex digest/],
    ["a/./b", /may hold only/],
    ["a/../b", /may hold only/],
    ["a_/b", /may hold only/],
    ["a___b", /may hold only/],
    [`r.example/${"a".repeat(255)}`, /longer than 255/],
  ];
  for (const [text, message] of errors) {
    test(`${JSON.stringify(text.slice(0, 60))} is usage`, () => {
      assert.match(throwsWith(() => parseReference(text), "usage").message, message);
    });
  }

  test("only Docker Hub's API has another host than its name", () => {
    assert.equal(apiHostOf("docker.io"), "registry-1.docker.io");
    assert.equal(apiHostOf("registry.example:5000"), "registry.example:5000");
  });

  test("the digest selects the manifest when there is a tag too", () => {
    assert.equal(manifestSelectorOf(parseReference(`a:b@${sha256}`)), sha256);
    assert.equal(manifestSelectorOf(parseReference("a:b")), "b");
  });
});

describe("image sources", () => {
  for (const [text, source] of [
    ["a.example/b:c", { kind: "registry", reference: { registry: "a.example", repository: "b", tag: "c" } }],
    ["file:/srv/layer.tar.gz", { kind: "file", path: "/srv/layer.tar.gz" }],
    ["file:with:colon", { kind: "file", path: "with:colon" }],
    ["oci:/srv/layout", { kind: "layout", directory: "/srv/layout" }],
    ["oci:layout:v1", { kind: "layout", directory: "layout", tag: "v1" }],
    ["oci:/a:b/c", { kind: "layout", directory: "/a:b/c" }],
    ["oci:/a:b/", { kind: "layout", directory: "/a:b/" }],
    ["oci:/a:b/c:d", { kind: "layout", directory: "/a:b/c", tag: "d" }],
    [`oci:/a@${sha256}`, { kind: "layout", directory: "/a", digest: sha256 }],
    [`oci:/a:v1@${sha256}`, { kind: "layout", directory: "/a", tag: "v1", digest: sha256 }],
  ] as const) {
    test(`${text.slice(0, 40)} is a ${source.kind}`, () => {
      assert.deepEqual(parseImageSource(text), source);
    });
  }

  for (const text of ["file:", "oci:", "oci::v1", "oci:/a@sha256:abc", "UPPER"]) {
    test(`${text} is usage`, () => {
      assert.match(throwsWith(() => parseImageSource(text), "usage").message, /\S/);
    });
  }
});
