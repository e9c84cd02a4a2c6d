import assert from "node:assert/strict";
import { test } from "node:test";
import { OcifsError, type OcifsErrorCode } from "../../src/base/errors.js";
import { commandExitCode, mountExitCode } from "../../src/cli/exit-codes.js";

const expected: Record<OcifsErrorCode, [mount: number, command: number]> = {
  usage: [1, 2],
  "not-found": [32, 1],
  unauthorized: [32, 1],
  denied: [32, 1],
  network: [32, 1],
  timeout: [32, 1],
  corrupt: [32, 1],
  mismatch: [32, 1],
  unsupported: [32, 1],
  limit: [32, 1],
  io: [32, 1],
  "no-space": [2, 1],
  busy: [32, 1],
  aborted: [8, 130],
  internal: [4, 1],
};

test("every error code has mount(8)'s exit code and a shell's", () => {
  for (const [code, codes] of Object.entries(expected)) {
    const error = new OcifsError(code as OcifsErrorCode, "x");
    assert.deepEqual([mountExitCode(error), commandExitCode(error)], codes, code);
  }
});

test("what is not an OcifsError is a bug", () => {
  for (const thrown of [new TypeError("x"), "text", undefined]) {
    assert.equal(mountExitCode(thrown), 4);
    assert.equal(commandExitCode(thrown), 1);
  }
});
