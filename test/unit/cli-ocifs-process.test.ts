import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const program = fileURLToPath(new URL("../../src/cli/ocifs.js", import.meta.url));

function ocifs(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
}

test("the program prints its version and help, and ends with 0", () => {
  const version = ocifs("--version");
  assert.deepEqual([version.status, version.stderr], [0, ""]);
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
  assert.match(ocifs("--help").stdout, /^ocifs COMMAND\n/);
});

test("the program without a command says so on standard error and ends with 2", () => {
  assert.deepEqual(ocifs(), { status: 2, stdout: "", stderr: "ocifs: no command given; see ocifs --help\n" });
});
