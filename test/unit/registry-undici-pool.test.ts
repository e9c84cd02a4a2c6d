import assert from "node:assert/strict";
import { test } from "node:test";
import * as undici from "undici";
import { Pool } from "../../src/registry/undici-pool.js";

test("the Pool that is loaded by itself is the package's own, with its request methods", () => {
  assert.equal(Object.getPrototypeOf(Pool), undici.Pool);
  for (const method of ["request", "stream", "pipeline", "upgrade", "connect"] as const) {
    assert.equal(typeof Pool.prototype[method], "function", method);
  }
});
