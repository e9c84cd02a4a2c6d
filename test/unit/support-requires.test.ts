import assert from "node:assert/strict";
import { test } from "node:test";
import { skipOrFail } from "../support/requires.js";

test("what cannot run fails in CI and is skipped with its reason elsewhere", () => {
  const said: string[] = [];
  const context = {
    skip: (message?: string) => said.push(`skip ${message}`),
    diagnostic: (message: string) => said.push(message),
  };
  assert.throws(() => skipOrFail(context, "no /dev/fuse", { CI: "true" }), /CI is set: no \/dev\/fuse/);
  assert.deepEqual(said, []);
  skipOrFail(context, "no /dev/fuse", {});
  skipOrFail(context, "no /dev/fuse", { CI: "false" });
  assert.deepEqual(said, ["NOT RUN: no /dev/fuse", "skip no /dev/fuse", "NOT RUN: no /dev/fuse", "skip no /dev/fuse"]);
});
