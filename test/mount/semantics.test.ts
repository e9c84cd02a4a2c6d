import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { repositoryRoot } from "../support/fixtures.js";

const lineNumber = /^\| (S\d+) \|/gm;
const testNumber = /\btest\(\s*["'`](S\d+): /g;

function numbersIn(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map((match) => match[1] ?? "");
}

test("every line of SEMANTICS.md has one test of its number, and every such test a line", async () => {
  const lines = numbersIn(await readFile(join(repositoryRoot, "docs", "SEMANTICS.md"), "utf8"), lineNumber);
  const tests: string[] = [];
  for (const part of ["mount", "integration"]) {
    const directory = join(repositoryRoot, "test", part);
    for (const name of await readdir(directory)) {
      tests.push(...numbersIn(await readFile(join(directory, name), "utf8"), testNumber));
    }
  }
  assert.ok(lines.length > 50);
  assert.equal(new Set(lines).size, lines.length, "a number stands on one line only");
  assert.deepEqual(tests.sort(), lines.sort());
});
