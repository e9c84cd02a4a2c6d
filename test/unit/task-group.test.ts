import assert from "node:assert/strict";
import { test } from "node:test";
import { TaskGroup } from "../../src/base/task-group.js";

function task() {
  let finish: () => void = assert.fail;
  let fail: (error: Error) => void = assert.fail;
  const ended = new Promise<void>((resolve, reject) => {
    finish = resolve;
    fail = reject;
  });
  return { run: () => ended, finish: () => finish(), fail: (error: Error) => fail(error) };
}

test("starts up to the limit at once, and more when one has ended", async () => {
  const group = new TaskGroup(2);
  const [a, b, c] = [task(), task(), task()];
  const begun: string[] = [];
  await group.start(a.run);
  await group.start(b.run);
  const third = group
    .start(() => {
      begun.push("c");
      return c.run();
    })
    .then(() => begun.push("returned"));
  await new Promise(setImmediate);
  assert.deepEqual(begun, []);
  b.finish();
  await third;
  assert.deepEqual(begun, ["c", "returned"]);
  a.finish();
  c.finish();
  await group.drain();
});

test("the first failure is thrown by what comes next, and starts nothing after it", async () => {
  const group = new TaskGroup(2);
  const [a, b] = [task(), task()];
  await group.start(a.run);
  await group.start(b.run);
  a.fail(new Error("first"));
  let begun = false;
  await assert.rejects(
    group.start(async () => {
      begun = true;
    }),
    /first/,
  );
  assert.equal(begun, false);
  let settled = false;
  const all = group.settled().then(() => {
    settled = true;
  });
  await new Promise(setImmediate);
  assert.equal(settled, false, "one is still running");
  b.fail(new Error("second"));
  await all;
  await assert.rejects(group.drain(), /first/);
});
