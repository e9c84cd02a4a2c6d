import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { testedDrivers } from "../support/driver-suite.js";
import { repositoryRoot } from "../support/fixtures.js";

const lineNumber = /^\| (S\d+) \|/gm;
const testNumber = /\btest\(\s*["'`](S\d+): /g;
const otherDrivers = "\n## Other drivers\n";

function numbersIn(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map((match) => match[1] ?? "");
}

async function readPage(): Promise<{ readonly lines: string[]; readonly others: string }> {
  const [page = "", others = ""] = (await readFile(join(repositoryRoot, "docs", "SEMANTICS.md"), "utf8")).split(
    otherDrivers,
  );
  return { lines: numbersIn(page, lineNumber), others };
}

test("every line of SEMANTICS.md has one test of its number, and every such test a line", async () => {
  const { lines } = await readPage();
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

test("what is said of other drivers is of lines that are there", async () => {
  const { lines, others } = await readPage();
  const mentioned = numbersIn(others, /\b(S\d+)\b/g);
  assert.ok(mentioned.length > 10);
  assert.deepEqual(
    mentioned.filter((number) => !lines.includes(number)),
    [],
  );
});

test("the page says of each driver which lines it does not promise", async () => {
  const { others } = await readPage();
  for (const { driver, without } of testedDrivers) {
    const said = new RegExp(`^- \`${driver.name}\`: .*?\\n(?=-|\\n)`, "ms").exec(others)?.[0] ?? "";
    const listed = /It does not promise ([^.]*)\./.exec(said)?.[1] ?? "";
    assert.deepEqual(numbersIn(listed, /(S\d+)/g), without, driver.name);
  }
});
