import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { isOcifsError } from "../../src/base/errors.js";
import { Patience } from "../../src/registry/patience.js";

const HOUR_MS = 3_600_000;

test("a wait that began before is part of the patience", async () => {
  using patience = new Patience(HOUR_MS, "fetch", { lastMs: 0 }, performance.now() - 2 * HOUR_MS);
  await once(patience.signal, "abort");
  assert.ok(isOcifsError(patience.signal.reason, "timeout"));
  assert.match(patience.signal.reason.message, /^fetch: nothing arrived for 3600000 ms$/);
});

test("bytes that arrive begin it anew", async () => {
  using patience = new Patience(HOUR_MS, "fetch", { lastMs: 0 }, performance.now() - 2 * HOUR_MS);
  patience.progress();
  await new Promise((resolve) => setImmediate(resolve));
  patience.pause();
  patience.resume();
  assert.equal(patience.signal.aborted, false);
});
