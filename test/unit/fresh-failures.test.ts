import assert from "node:assert/strict";
import { test } from "node:test";
import { limits } from "../../src/base/limits.js";
import { FreshFailures } from "../../src/daemon/fresh-failures.js";

function failuresAt(): { failures: FreshFailures; pass: (ms: number) => void } {
  let now = 1000;
  const failures = new FreshFailures(() => now);
  return {
    failures,
    pass: (ms) => {
      now += ms;
    },
  };
}

test("a request that repeats a failed one gets its errno, once", () => {
  const { failures } = failuresAt();
  failures.add(1, 4, 9, 5);
  assert.equal(failures.take(2, 4, 4), undefined, "another layer");
  assert.equal(failures.take(1, 10, 12), undefined, "other spans");
  assert.equal(failures.take(1, 4, 4), 5);
  assert.equal(failures.take(1, 4, 4), undefined);
});

test("each of several failed requests answers one", () => {
  const { failures } = failuresAt();
  for (let i = 0; i < 3; i++) failures.add(1, 0, 0, 5);
  assert.deepEqual(
    [1, 2, 3, 4].map(() => failures.take(1, 0, 0)),
    [5, 5, 5, undefined],
  );
});

test("what is asked later is asked anew", () => {
  const { failures, pass } = failuresAt();
  failures.add(1, 0, 0, 5);
  pass(1000);
  assert.equal(failures.take(1, 0, 0), undefined);
});

test("no more than the limit are kept", () => {
  const { failures } = failuresAt();
  for (let span = 0; span <= limits.freshFailures; span++) failures.add(1, span, span, 5);
  assert.equal(failures.take(1, 0, 0), undefined);
  assert.equal(failures.take(1, limits.freshFailures, limits.freshFailures), 5);
});
