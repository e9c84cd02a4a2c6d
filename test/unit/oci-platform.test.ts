import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { formatPlatform, hostPlatform, parsePlatform, platformDistance } from "../../src/oci/platform.js";
import { throwsWith } from "../support/errors.js";

describe("platforms", () => {
  for (const [text, canonical] of [
    ["linux/amd64", "linux/amd64"],
    ["linux/x86_64", "linux/amd64"],
    ["Linux/AMD64", "linux/amd64"],
    ["linux/amd64/v1", "linux/amd64"],
    ["linux/amd64/v3", "linux/amd64/v3"],
    ["linux/arm64", "linux/arm64/v8"],
    ["linux/aarch64", "linux/arm64/v8"],
    ["linux/arm64/8", "linux/arm64/v8"],
    ["linux/arm64/v8.0", "linux/arm64/v8"],
    ["linux/arm", "linux/arm/v7"],
    ["linux/armhf", "linux/arm/v7"],
    ["linux/armel", "linux/arm/v6"],
    ["linux/arm/6", "linux/arm/v6"],
    ["linux/i686", "linux/386"],
    ["linux/riscv64", "linux/riscv64"],
    ["windows/amd64", "windows/amd64"],
  ] as const) {
    test(`${text} is ${canonical}`, () => {
      assert.equal(formatPlatform(parsePlatform(text)), canonical);
      assert.deepEqual(parsePlatform(canonical), parsePlatform(text));
    });
  }

  for (const text of ["", "linux", "linux/", "/amd64", "linux/amd64/v1/x", "linux/a b", "linux//v7"]) {
    test(`${JSON.stringify(text)} is usage`, () => {
      assert.match(throwsWith(() => parsePlatform(text), "usage").message, /os\/architecture/);
    });
  }

  for (const [arch, endianness, armVersion, platform] of [
    ["x64", "LE", undefined, "linux/amd64"],
    ["ia32", "LE", undefined, "linux/386"],
    ["arm64", "LE", undefined, "linux/arm64/v8"],
    ["arm", "LE", "7", "linux/arm/v7"],
    ["arm", "LE", "6", "linux/arm/v6"],
    ["arm", "LE", undefined, "linux/arm/v7"],
    ["riscv64", "LE", undefined, "linux/riscv64"],
    ["ppc64", "LE", undefined, "linux/ppc64le"],
    ["ppc64", "BE", undefined, "linux/ppc64"],
    ["s390x", "BE", undefined, "linux/s390x"],
    ["loong64", "LE", undefined, "linux/loong64"],
  ] as const) {
    test(`a ${arch} ${endianness} machine runs ${platform}`, () => {
      const facts = { arch, endianness, ...(armVersion === undefined ? {} : { armVersion }) };
      assert.equal(formatPlatform(hostPlatform(facts)), platform);
    });
  }

  test("this machine has a platform, an unknown one asks for the option", () => {
    assert.equal(hostPlatform().os, "linux");
    assert.match(
      throwsWith(() => hostPlatform({ arch: "vax", endianness: "LE" }), "unsupported").message,
      /oci.platform=/,
    );
  });

  for (const [wanted, have, distance] of [
    ["linux/amd64", "linux/amd64", 0],
    ["linux/amd64/v3", "linux/amd64/v2", 1],
    ["linux/amd64/v3", "linux/amd64", 2],
    ["linux/amd64", "linux/amd64/v2", undefined],
    ["linux/arm/v7", "linux/arm", 0],
    ["linux/arm/v7", "linux/arm/v6", 1],
    ["linux/arm/v6", "linux/arm/v7", undefined],
    ["linux/arm64", "linux/arm64/v8", 0],
    ["linux/arm64/v9", "linux/arm64", 1],
    ["linux/arm64", "linux/arm/v7", undefined],
    ["linux/amd64", "linux/386", undefined],
    ["linux/amd64", "windows/amd64", undefined],
    ["linux/amd64/weird", "linux/amd64", undefined],
    ["linux/amd64/weird", "linux/amd64/weird", 0],
    ["linux/ppc64le/power9", "linux/ppc64le", undefined],
  ] as const) {
    test(`an image for ${have} is ${distance ?? "nothing"} to ${wanted}`, () => {
      assert.equal(platformDistance(parsePlatform(wanted), parsePlatform(have)), distance);
    });
  }
});
