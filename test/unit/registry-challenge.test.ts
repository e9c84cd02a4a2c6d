import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { parseChallenges } from "../../src/registry/challenge.js";
import { throwsWith } from "../support/errors.js";

describe("WWW-Authenticate", () => {
  const table: readonly (readonly [
    header: string | readonly string[],
    ...(readonly [string, Record<string, string>])[],
  ])[] = [
    ["Basic", ["basic", {}]],
    ['Basic realm="x"', ["basic", { realm: "x" }]],
    ["BASIC REALM=x", ["basic", { realm: "x" }]],
    [
      'Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull,push"',
      ["bearer", { realm: "https://auth.test/token", service: "registry.test", scope: "repository:a/b:pull,push" }],
    ],
    ['Bearer realm = "a" , service\t=\t"b"', ["bearer", { realm: "a", service: "b" }]],
    ['Basic realm="a \\"quoted\\" \\\\ name"', ["basic", { realm: 'a "quoted" \\ name' }]],
    ['Basic realm="a", Bearer realm="b"', ["basic", { realm: "a" }], ["bearer", { realm: "b" }]],
    [
      'Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
      ["newauth", { realm: "apps", type: "1", title: 'Login to "apps"' }],
      ["basic", { realm: "simple" }],
    ],
    ["Negotiate, Basic realm=x", ["negotiate", {}], ["basic", { realm: "x" }]],
    ["Negotiate YWJj+/==, Basic realm=x", ["negotiate", {}], ["basic", { realm: "x" }]],
    // A bare name with "=" is the token68 form.
    ["Basic realm=", ["basic", {}]],
    ["Negotiate abc=, Basic", ["negotiate", {}], ["basic", {}]],
    [
      ["Basic realm=x", "Bearer realm=y"],
      ["basic", { realm: "x" }],
      ["bearer", { realm: "y" }],
    ],
    [", ,Basic realm=x, ,", ["basic", { realm: "x" }]],
    ["Basic realm=first, REALM=second", ["basic", { realm: "first" }]],
    ['Bearer realm=""', ["bearer", { realm: "" }]],
    [""],
    [[]],
  ];
  for (const [header, ...challenges] of table) {
    test(JSON.stringify(header), () => {
      const found = parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);
      assert.deepEqual(found, challenges);
    });
  }

  for (const header of ['Basic realm="x', 'Basic realm="x\\', "Basic a=b c=d", '"x"', "Basic a=b =c", "=", "é"]) {
    test(`${JSON.stringify(header)} is corrupt`, () => {
      assert.match(throwsWith(() => parseChallenges(header), "corrupt").message, /at character \d+/);
    });
  }

  test("too many challenges or parameters are limit", () => {
    throwsWith(
      () =>
        parseChallenges(
          Array(limits.authChallenges + 1)
            .fill("Basic")
            .join(", "),
        ),
      "limit",
    );
    throwsWith(() => parseChallenges(Array(limits.authChallenges + 1).fill("Basic")), "limit");
    const parameters = Array.from({ length: limits.authParameters + 1 }, (_, index) => `p${index}=x`);
    throwsWith(() => parseChallenges(`Basic ${parameters.join(", ")}`), "limit");
  });
});
